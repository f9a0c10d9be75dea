"""Files that PyTorch wrote of networks of one genotype, read and run as `evaluate` runs them."""

import functools
import gzip
import pathlib
import shutil
import tempfile
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist import torchfile
from darts_dist.interop_network import network_from_torch, network_to_torch
from darts_dist.nets.network import Network
from darts_dist.nets.pure import pure
from parity.cnn_eval import layouts, naming_of
from parity.vectors import (
    Case,
    VectorError,
    check_case,
    exact,
    guarded,
    images,
    read_arrays,
    read_json,
    side_by_side,
    under,
)

STEM = "checkpoints_cnn"
FOLDER, EXPECTED = "checkpoints", "expected_cnn"
TOLERANCE = {64: 1e-6, 32: 1e-5}  # of logits


def check(directory):
    """Yields the rows of all files."""
    folder = pathlib.Path(directory) / FOLDER
    yield from side_by_side(functools.partial(_check, folder), read_cases(folder))


def read_cases(folder):
    """Returns a Case for each file, named after it: its pictures, and the logits wanted."""
    described, arrays = read_json(folder, EXPECTED)["files"], read_arrays(folder, EXPECTED)
    strangers = {name.rpartition("/")[0] for name in arrays} - set(described)
    if strangers:
        raise VectorError(f"{EXPECTED}.npz holds arrays of {sorted(strangers)}, the JSON does not")
    cases = []
    for name, settings in described.items():
        key = settings["input_key"]
        if key not in arrays:
            raise VectorError(f"{EXPECTED}.npz lacks {key}, the pictures of {name}")
        own = under(arrays, f"{name}/")
        wanted = {
            bits: {"logits_eval": own[stored]} if stored in own else {}
            for bits, stored in ((64, "logits_eval_float64"), (32, "logits_eval"))
        }
        inputs = {key.rpartition("/")[2]: arrays[key]}
        cases.append(Case(name, settings | {"float_types": [32, 64]}, inputs, wanted))
    return cases


def read_state(path):
    """Returns the state dict of a file, which may be compressed: name.gz."""
    if path.suffix != ".gz":
        return torchfile.read_state(path)
    with tempfile.TemporaryDirectory() as folder:
        plain = pathlib.Path(folder) / path.stem
        try:
            with gzip.open(path) as packed, open(plain, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        except (OSError, EOFError, zlib.error) as error:
            raise VectorError(f"{path}: {error}") from error
        return torchfile.read_state(plain)


def _check(folder, case):
    yield from guarded(STEM, case.name, "", functools.partial(_names, folder, case))
    compute = functools.partial(outputs, folder, case)
    yield from check_case(STEM, case, layouts, compute, lambda bits, name: TOLERANCE[bits])


def _names(folder, case):
    """Returns rows for what is in a file: sizes, and every tensor there and back."""
    settings, state = case.settings, read_state(folder / case.name)
    naming = naming_of(settings)
    back = network_to_torch(*network_from_torch(state, **naming), **naming)
    first, share = ("stem.0.weight", 3) if settings["net"] == "cifar" else ("stem0.3.weight", 1)
    found = {
        "C": len(back[first]) // share,
        "classes": len(back["classifier.bias"]),
        "auxiliary": any(name.startswith("auxiliary_head.") for name in back),
    }
    changed = [name for name, value in back.items() if not np.array_equal(value, state[name])]
    return [
        *(exact(STEM, case.name, "", key, value, settings[key]) for key, value in found.items()),
        exact(STEM, case.name, "", "tensors there and back", changed, []),
    ]


def outputs(folder, case, layout, bits):
    """Returns the logits of a case's file; layout: a name."""
    settings, dtype = case.settings, f"float{bits}"
    state = network_from_torch(read_state(folder / case.name), **naming_of(settings))
    params, stats = jax.tree.map(lambda v: jnp.asarray(v, dtype), state)
    x = jnp.asarray(images(case.inputs, "x"), dtype)
    sizes = {
        "channels": settings["C"],
        "classes": settings["classes"],
        "channels_in": x.shape[-1],
        "auxiliary": settings["auxiliary"],
        "original": True,
    }
    _, apply = pure(
        lambda key: Network(key, **naming_of(settings), **sizes, layout=layout, dtype=dtype)
    )
    (logits, _), _ = jax.jit(functools.partial(apply, train=False))(params, stats, x)
    return {"logits_eval": logits}
