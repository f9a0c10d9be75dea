"""Files that PyTorch wrote of whole recurrent networks, read and run as `evaluate` runs them."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist import genotype as genotypes
from darts_dist import interop_recurrent
from darts_dist.interop_recurrent import recurrent_to_torch
from darts_dist.spaces import rnn
from parity.vectors import (
    Case,
    VectorError,
    check_case,
    exact,
    guarded,
    read_arrays,
    read_json,
    side_by_side,
    under,
)

STEM = "checkpoints_rnn"
FOLDER, EXPECTED = "checkpoints", "expected_rnn"
TOLERANCE = {64: 1e-6, 32: 1e-5}  # of log-probabilities
OUTPUTS = ("log_prob_eval", "hidden_out_eval")


def check(directory):
    """Yields the rows of all files."""
    folder = pathlib.Path(directory) / FOLDER
    yield from side_by_side(functools.partial(_check, folder), read_cases(folder))


def read_cases(folder):
    """Returns a Case for each file, named after it: its words, and the outputs wanted."""
    described, arrays = read_json(folder, EXPECTED)["files"], read_arrays(folder, EXPECTED)
    strangers = {name.partition("/")[0] for name in arrays} - set(described)
    if strangers:
        raise VectorError(f"{EXPECTED}.npz holds arrays of {sorted(strangers)}, the JSON does not")
    cases = []
    for name, settings in described.items():
        own = under(arrays, f"{name}/")
        wanted = {32: {key: own[key] for key in OUTPUTS if key in own}, 64: {}}
        wanted[64] = {
            key: own[f"{key}_float64"] for key in OUTPUTS if f"{key}_float64" in own
        } or wanted[32]  # what float32 gave, within its own tolerance
        inputs = {key: value for key, value in own.items() if not key.startswith(OUTPUTS)}
        cases.append(Case(name, settings | {"float_types": [32, 64]}, inputs, wanted))
    return cases


def _check(folder, case):
    yield from guarded(STEM, case.name, "", functools.partial(_names, folder, case))
    stored = any(name.endswith("_float64") for name in case.inputs)

    def tolerance(bits, _):
        return TOLERANCE[64 if stored and bits == 64 else 32]

    def compute(_, bits):
        return outputs(folder, case, bits)

    yield from check_case(STEM, case, lambda bits: ("",), compute, tolerance)


def _names(folder, case):
    """Returns rows for what is in a file: sizes, the genotype, and every tensor."""
    params, value = interop_recurrent.read(str(folder / case.name))
    words, width = params["embedding"].shape
    wanted = genotypes.load(case.settings["genotype"], "rnn")
    state, back = under(case.inputs, "state/"), recurrent_to_torch(params, twice=True)
    changed = [name for name, one in state.items() if not np.array_equal(back.get(name), one)]
    return [
        exact(STEM, case.name, "", "ntoken", words, case.settings["ntoken"]),
        exact(STEM, case.name, "", "nhid", width, case.settings["nhid"]),
        exact(STEM, case.name, "", "genotype", value, wanted),
        exact(STEM, case.name, "", "tensors", changed, []),
    ]


def outputs(folder, case, bits):
    """Returns log-probabilities and hidden state of a case's file."""
    dtype = jnp.dtype(f"float{bits}")
    params, value = interop_recurrent.read(str(folder / case.name))
    words, width = params["embedding"].shape
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    _, apply = rnn.build_network(value, words=words, width=width, compute=dtype)
    tokens = jnp.asarray(case.inputs["tokens"], jnp.int32)
    hidden = jnp.asarray(case.inputs["hidden"][0], dtype)
    out, _ = jax.jit(functools.partial(apply, train=False))(params, {}, tokens, hidden)
    return {
        "log_prob_eval": jax.nn.log_softmax(out.logits),
        "hidden_out_eval": out.hidden[None],
    }
