"""A search and a training of recurrent cells that compile in seconds, and texts for them."""

import numpy as np

from darts_dist import config as configs
from darts_dist import trainconfig
from darts_dist.data.text import Corpus
from darts_dist.genotype import RnnGenotype
from darts_dist.texttask import TextSearch, TextTraining

WORDS = 13
GENOTYPE = RnnGenotype((("tanh", 0), ("sigmoid", 0), ("relu", 1)), (1, 2, 3))
SIZES = (
    "space.kind=rnn",
    "network.channels=6",
    "data.global_batch=8",
    "data.window=5",
    "data.threads=0",
    "precision.compute=float64",
    "weights.learning_rate=2",
    "weights.weight_decay=0.01",
    "regularisation.activation=0.5",
    "regularisation.temporal=0.5",
    "evaluation.batch=3",
)
DROPOUTS = tuple(
    f"regularisation.dropout_{name}=0.25"
    for name in ("embedding", "input", "cell_input", "hidden", "output")
)


def corpus(train=400, valid=170, test=60, words=WORDS):
    """Returns random texts of so many words."""
    draw = np.random.default_rng(3)
    texts = (draw.integers(0, words, count).astype(np.int32) for count in (train, valid, test))
    return Corpus(tuple(f"w{at}" for at in range(words)), *texts)


def search(*changes, **texts):
    """Returns a small search."""
    sizes = (*SIZES, *DROPOUTS, "network.nodes=2", *changes)
    return TextSearch(configs.parse("", "a test", overrides=sizes), corpus(**texts))


def training(*changes, **texts):
    """Returns a small training; windows are padded to 7 or 9 words."""
    sizes = (*SIZES, *DROPOUTS, "data.excess=4", "data.sizes=[7]", "evaluation.test_batch=2")
    made = configs.parse_as(trainconfig.TRAININGS, "", "a test", "small", (*sizes, *changes))
    return TextTraining(made, GENOTYPE, corpus(**texts))


def run(task, steps, states=None, start=0):
    """Returns (states, every step's metrics) after so many steps, an evaluation a pass."""
    states, seen = states or task.init(), []
    batches = task.batches(start)
    for done in range(start + 1, start + steps + 1):
        states, metrics = task.advance(states, next(batches), 0)
        seen.append({name: np.array(value) for name, value in metrics.items()})
        if done % task.epoch_steps == 0:
            states, _ = task.end_epoch(states)
    batches.close()
    return states, seen
