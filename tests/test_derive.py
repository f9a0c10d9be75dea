"""Derivation agrees with recorded genotypes of the original, ties included."""

import json
import pathlib

import numpy as np
import pytest

from darts_dist import genotype
from darts_dist.errors import GenotypeError
from darts_dist.spaces import derive

DATA = pathlib.Path(__file__).parent / "data"
CNN = (
    *("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"),
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
RNN = ("none", "tanh", "relu", "sigmoid", "identity")


def test_every_recorded_cnn_genotype_is_derived():
    cases = json.loads((DATA / "cnn_genotypes.json").read_text())["genotypes"]
    with np.load(DATA / "cnn_genotypes.npz") as file:
        pairs = list(zip(file["alphas_normal"], file["alphas_reduce"], strict=True))
    for case, (normal, reduce) in zip(cases, pairs, strict=True):
        weights = {"normal": derive.softmax(normal), "reduce": derive.softmax(reduce)}
        assert derive.RULES["top2"](weights, CNN) == genotype.from_dict(case)


def test_every_recorded_rnn_genotype_is_derived():
    cases = json.loads((DATA / "rnn_genotypes.json").read_text())["genotypes"]
    with np.load(DATA / "rnn_genotypes.npz") as file:
        alphas = file["alphas"]
    for case, alpha in zip(cases, alphas, strict=True):
        value = derive.top2({"recurrent": derive.softmax(alpha)}, RNN, "rnn")
        assert value == genotype.from_dict(case)


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("operations", [CNN, CNN[1:], ("skip_connect", "none", "sep_conv_3x3")])
def test_any_number_of_nodes_and_any_operations_give_a_cell(nodes, operations):
    edges = sum(2 + node for node in range(nodes))
    weights = derive.softmax(np.random.default_rng(0).normal(size=(2, edges, len(operations))))
    value = derive.top2({"normal": weights[0], "reduce": weights[1]}, operations)
    assert len(value.normal) == 2 * nodes
    assert value.reduce_concat == tuple(range(2, 2 + nodes))
    assert all(operation != "none" for operation, _ in value.normal)


def test_equal_weights_give_the_first_operation_on_the_first_states():
    weights = np.full((14, 8), 1 / 8, np.float32)
    value = derive.top2({"normal": weights, "reduce": weights}, CNN)
    assert value.normal == (("max_pool_3x3", 0), ("max_pool_3x3", 1)) * 4
    recurrent = np.full((36, 5), 1 / 5, np.float32)
    assert derive.top2({"recurrent": recurrent}, RNN, "rnn").recurrent == (("tanh", 0),) * 8


@pytest.mark.parametrize(
    ("shape", "operations", "said"),
    [
        ((13, 8), CNN, "no cnn cell has 13 edges"),
        ((14, 7), CNN, r"shape \(14, 7\)"),
        ((14, 1), ("none",), "besides 'none'"),
    ],
)
def test_weights_that_fit_no_cell_are_refused(shape, operations, said):
    weights = np.zeros(shape)
    with pytest.raises(GenotypeError, match=said):
        derive.top2({"normal": weights, "reduce": weights}, operations)


def test_weights_that_are_not_finite_are_refused():
    weights = np.full((14, 8), np.nan)
    with pytest.raises(GenotypeError, match="not finite"):
        derive.top2({"normal": weights, "reduce": weights}, CNN)


@pytest.mark.parametrize("row", range(14))
def test_edges_are_named_in_the_order_of_the_rows(row):
    weights = np.full((14, 8), 0.1)
    weights[row, 4] = 0.3
    start, end = derive.edges_of(14, "cnn")[row]
    found = derive.top2({"normal": weights, "reduce": weights}, CNN)
    assert isinstance(found, genotype.CnnGenotype)
    assert found.normal[2 * (end - 2)] == ("sep_conv_3x3", start)
