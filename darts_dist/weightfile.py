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
from darts_dist import genotype, torchfile, trainconfig
from darts_dist.errors import ConfigError, DataError, InputError
from darts_dist.genotype import RnnGenotype
from darts_dist.schema import literal
from darts_dist.torchpickle import Record

# stem -> (its first convolution, the one that is as wide as the first cells, how often as wide)
STEMS = {
    "cifar": ("stem.0.weight", "stem.0.weight", 3),
    "imagenet": ("stem0.0.weight", "stem0.3.weight", 1),
}
AUXILIARY = "auxiliary_head."
EMBEDDING = "encoder.weight"  # of recurrent networks
MODULE = "model.RNNModel"
WANTED_MODULE = "wanted a network that the original saved"
RECORDS = (  # what a file of a whole recurrent network names
    MODULE,
    "model.DARTSCell",
    "utils.LockedDropout",
    "genotypes.Genotype",
    "torch.nn.modules.sparse.Embedding",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.ParameterList",
    "torch.nn.backends.thnn._get_thnn_function_backend",
)
IMAGENET_PX = 224


def of_target(target: str, overrides: Sequence[str] = ()) -> Any:
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


def config_of(path: str, overrides: Sequence[str] = ()) -> Any:
    """Returns the config of the network in a file: its sizes by the tensors, then the overrides.

    Whether the rest of the tensors fits it, and the overrides the tensors, is not looked at.
    """
    state, _ = read_module(path)
    if EMBEDDING in state:
        if state[EMBEDDING].ndim != 2:
            raise DataError(
                f"{path}: {EMBEDDING} has the shape {state[EMBEDDING].shape}; wanted 2 axes"
            )
        sizes = {"space.kind": "rnn", "network.channels": state[EMBEDDING].shape[1]}
    else:
        sizes = sizes_of(state, path)
    given = [f"{key}={literal(value)}" for key, value in sizes.items()]
    name = pathlib.Path(path).name.partition(".")[0] or "network"
    return configs.parse_as(trainconfig.TRAININGS, "", path, name, (*given, *overrides))


def read_module(path: str) -> tuple[dict[str, np.ndarray], RnnGenotype | None]:
    """Returns (state dict, genotype or None) of a file that holds a state dict, or a whole module
    of the original's recurrent networks. Raises DataError.
    """
    found = torchfile.read(path, RECORDS)
    if not isinstance(found, Record):
        return torchfile.read_state(path), None
    if found.name != MODULE:
        raise DataError(f"{path} holds a {found.name}; wanted a {MODULE}, or a state dict")
    state: dict[str, np.ndarray] = {}
    genotypes: list[RnnGenotype] = []
    _collect(found, "", state, genotypes, path)
    return state, genotypes[0] if genotypes else None


def _collect(module: Any, prefix: str, state: dict, genotypes: list, path: str) -> None:
    """Adds a module's parameters and buffers by name, and its genotype, those below it after it."""
    held = module.state if isinstance(module, Record) else None
    if not isinstance(held, dict):
        raise DataError(f"{path}: {prefix or 'the module'} has no attributes; {WANTED_MODULE}")
    for group in ("_parameters", "_buffers", "_modules"):
        if not isinstance(held.get(group), dict):
            raise DataError(f"{path}: {prefix or 'the module'} has no {group}; {WANTED_MODULE}")
    for name, value in (*held["_parameters"].items(), *held["_buffers"].items()):
        if isinstance(value, np.ndarray):
            state[f"{prefix}{name}"] = value
    if isinstance(held.get("genotype"), Record):
        recurrent, concat = (*held["genotype"].arguments, None, None)[:2]
        tree = {"recurrent": recurrent, "concat": list(concat or ())}
        value = genotype.from_dict(tree, "rnn")
        assert isinstance(value, RnnGenotype)
        genotypes.append(value)
    for name, below in held["_modules"].items():
        _collect(below, f"{prefix}{name}.", state, genotypes, path)


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
