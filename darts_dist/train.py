"""The verb `train`: networks of one genotype, one for each seed, trained and scored.

Place: layer 4: config -> genotype and pictures or texts -> task -> run.
"""

from typing import Any

from darts_dist import genotype, texttask
from darts_dist import run as runs
from darts_dist.data import sources
from darts_dist.errors import ConfigError
from darts_dist.genotype import CnnGenotype, Genotype, RnnGenotype
from darts_dist.rules import check_auxiliary
from darts_dist.texttask import TextTraining
from darts_dist.trainconfig import TextTrainConfig, TrainConfig
from darts_dist.training import Training
from darts_dist.trainjournal import TrainJournal


def run(config: TrainConfig | TextTrainConfig, workdir: str, debug: bool) -> dict[str, Any]:
    """Returns the content of result.json after training in `workdir`."""
    value = load_genotype(config)
    if isinstance(config, TrainConfig):  # scoring has no use for the head, on maps of any size
        check_auxiliary(config.network, config.regularisation.auxiliary_weight)

    def make() -> Training | TextTraining:
        return make_training(config, value)

    return runs.carry_out("train", config, workdir, debug, make, TrainJournal, "epochs.jsonl")


def load_genotype(config: TrainConfig | TextTrainConfig) -> Any:
    """Returns the genotype that a config names; ConfigError where it names none."""
    if not config.genotype:
        raise ConfigError(
            'genotype = ""; wanted a published name, a file or a search run: genotype=DARTS_V2, '
            "genotype=runs/mine"
        )
    return genotype.load(config.genotype, config.space.kind)


def make_training(config: Any, value: Genotype) -> Any:
    """Returns the task of training networks of a genotype on what a config names."""
    if isinstance(config, TextTrainConfig):
        assert isinstance(value, RnnGenotype)
        return TextTraining(config, value, texttask.load(config))
    assert isinstance(value, CnnGenotype)
    pictures = sources.load(config, "train")
    held_out = config.data.train_fraction < 1
    return Training(config, value, pictures, None if held_out else sources.load(config, "test"))
