"""A file of PyTorch as what `evaluate` works on: the config that follows from its tensors.

Place: layer 2, between `torchfile` and `trainconfig`. It needs no jax, so that the command line is
known to be good before that starts. The weights themselves are taken by `evaluate`.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from darts_dist import config as configs
from darts_dist import torchfile, trainconfig
from darts_dist.errors import ConfigError, DataError, InputError
from darts_dist.schema import literal
from darts_dist.trainconfig import TrainConfig

# stem -> (its first convolution, the one that is as wide as the first cells, how often as wide)
STEMS = {
    "cifar": ("stem.0.weight", "stem.0.weight", 3),
    "imagenet": ("stem0.0.weight", "stem0.3.weight", 1),
}
AUXILIARY = "auxiliary_head."
IMAGENET_PX = 224


def of_target(target: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Returns the config of what is evaluated, a train run or a file of PyTorch, with overrides.

    Raises InputError for what is neither, DataError for a broken file.
    """
    if not is_file(target):
        if not configs.place(target).exists():
            raise InputError(
                f"{target} does not exist; wanted the folder of a train run, or a file of PyTorch"
            )
        return trainconfig.of_run(target, overrides)
    config = config_of(target, overrides)
    if config.seeds.count != 1:
        raise ConfigError(
            f"seeds.count = {config.seeds.count}; wanted 1: {target} holds one network"
        )
    return config


def is_file(target: str) -> bool:
    """Returns whether a target is a file, not a run."""
    return "://" not in target and pathlib.Path(target).is_file()


def config_of(path: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Returns the config of the network in a file: its sizes by the tensors, then the overrides.

    Whether the rest of the tensors fits it, and the overrides the tensors, is not looked at.
    """
    sizes = sizes_of(torchfile.read_state(path), path)
    given = [f"{key}={literal(value)}" for key, value in sizes.items()]
    name = pathlib.Path(path).name.partition(".")[0] or "network"
    return configs.parse_as(TrainConfig, "", path, name, (*given, *overrides))


def sizes_of(state: Mapping[str, np.ndarray], path: str) -> dict[str, Any]:
    """Returns the knobs, by dotted key, that a state dict of a genotype's network decides.

    Raises DataError where a tensor that they follow from is missing or has other axes.
    """
    stem = "imagenet" if STEMS["imagenet"][0] in state else "cifar"
    first, wide, share = STEMS[stem]
    for name, axes in ((first, 4), (wide, 4), ("classifier.weight", 2)):
        if name not in state:
            raise DataError(f"{path}: {name} is missing; wanted a network of the original's")
        shape = state[name].shape
        if len(shape) != axes:
            raise DataError(f"{path}: {name} has the shape {shape}; wanted {axes} axes")
    cells = {found[1] for found in (re.match(r"cells\.(\d+)\.", name) for name in state) if found}
    sizes = {
        "network.stem": stem,
        "network.channels": state[wide].shape[0] // share,
        "network.layers": len(cells),
        "network.in_channels": state[first].shape[1],
        "network.classes": state["classifier.weight"].shape[0],
    }
    if stem == "imagenet":
        sizes["network.image_px"] = IMAGENET_PX
    if not any(name.startswith(AUXILIARY) for name in state):
        sizes["regularisation.auxiliary_weight"] = 0
    return sizes
