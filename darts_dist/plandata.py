"""What a plan knows of data that it does not read: how many there are, so how many steps.

Place: layer 3, beside `planning`.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from darts_dist import textdata, texttask
from darts_dist.data import pipeline
from darts_dist.data.text import Corpus
from darts_dist.planconfig import AnyPlan, AnyTextPlan, PlanSearch, PlanTextSearch, PlanTextTrain

PICTURES = {  # data.kind -> training pictures, test pictures, classes
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "imagenet": (1_281_167, 50_000, 1_000),
    "sample": (4_000, 1_000, 10),
}
TEXTS = {  # plan.text -> words of train.txt and valid.txt, ends of lines too; different words
    "ptb": (929_589, 73_760, 10_000),
    "wikitext2": (2_088_628, 217_646, 33_278),
}
MOST_STEPS = 1_000  # whose windows are looked at


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of one seed's run.

    classes: that the network tells apart, of a text its different words.  step_examples: of `unit`,
    in a step.  evaluation_batches: of one evaluation.  lengths: of texts, words that windows are
    padded to -> share of the steps; {} of pictures.
    """

    classes: int
    unit: str
    step_examples: float
    epoch_steps: int
    evaluation_batches: int
    lengths: Mapping[int, float]


def count(config: AnyPlan) -> Counts:
    """Returns what follows from the size of the data; ConfigError where they are too few."""
    if isinstance(config, PlanTextSearch | PlanTextTrain):
        return _of_texts(config)
    data, schedule = config.data, config.schedule
    known, tests, classes = PICTURES.get(data.kind, (0, 0, 0))
    pictures = config.plan.examples or known
    pictures = min(pictures, data.train_limit or pictures)
    if isinstance(config, PlanSearch):
        trained, held = pipeline.halves(pictures, data.train_fraction, "index", data.global_batch)
    else:
        trained = range(int(data.train_fraction * pictures))
        held = range(pictures - len(trained) if data.train_fraction < 1 else tests)
    scored = min(config.evaluation.examples or len(held), len(held))
    return Counts(
        config.network.classes or classes,
        "pictures",
        data.global_batch,
        schedule.steps_per_epoch or max(len(trained) // data.global_batch, 1),
        -(-scored // data.global_batch),
        {},
    )


def _of_texts(config: AnyTextPlan) -> Counts:
    corpus, data = _corpus(config), config.data
    seeds = range(config.seeds.first, config.seeds.first + config.seeds.count)
    windows = textdata.cut(config, corpus, seeds=seeds, own=(), columns=slice(0, 1))
    steps = textdata.steps_of_epoch(config, len(windows.texts["train"]))
    rows = textdata.scored_columns(config, corpus, "valid")
    seen = [windows.size_at(step) for step in range(min(steps, MOST_STEPS))]
    return Counts(
        len(corpus.words),
        "words",
        data.global_batch * textdata.MEAN_SHARE * data.window,
        steps,
        -(-(len(rows) - 1) // data.window),
        {size: seen.count(size) / len(seen) for size in windows.sizes},
    )


def _corpus(config: AnyTextPlan) -> Corpus:
    """The texts of a config: the packaged ones, or as many words as others have, each word 0."""
    if config.data.kind == "sample":
        return texttask.load(config)
    plan = config.plan
    train, valid, words = TEXTS.get(plan.text, (plan.examples, plan.scored, plan.words))
    empty = [np.zeros(size, np.int8) for size in (train, valid, 0)]
    return Corpus(("",) * words, *empty)
