"""The verb `train`: networks of one genotype, one for each seed, trained and scored.

Place: layer 4: config -> genotype and pictures -> task -> run.
"""

from typing import Any

from darts_dist import genotype
from darts_dist import run as runs
from darts_dist.data import sources
from darts_dist.errors import ConfigError
from darts_dist.genotype import CnnGenotype
from darts_dist.trainconfig import TrainConfig
from darts_dist.training import Training
from darts_dist.trainjournal import TrainJournal


def run(config: TrainConfig, workdir: str, debug: bool) -> dict[str, Any]:
    """Returns the content of result.json after training in `workdir`."""
    value = load_genotype(config)

    def make() -> Training:
        return make_training(config, value)

    return runs.carry_out("train", config, workdir, debug, make, TrainJournal, "epochs.jsonl")


def load_genotype(config: TrainConfig) -> CnnGenotype:
    """Returns the genotype that a config names; ConfigError where it names none."""
    if not config.genotype:
        raise ConfigError(
            'genotype = ""; wanted a published name, a file or a search run: genotype=DARTS_V2, '
            "genotype=runs/mine"
        )
    value = genotype.load(config.genotype, "cnn")
    assert isinstance(value, CnnGenotype)
    return value


def make_training(config: TrainConfig, value: CnnGenotype) -> Training:
    """Returns the task of training networks of a genotype on the pictures that a config names."""
    pictures = sources.load(config, "train")
    held_out = config.data.train_fraction < 1
    return Training(config, value, pictures, None if held_out else sources.load(config, "test"))
