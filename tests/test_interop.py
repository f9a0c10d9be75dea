"""The original's tensors and this package's trees, one description of the way between them."""

import json
import pathlib

import jax
import numpy as np
import pytest

from darts_dist import interop
from darts_dist.config import Config
from darts_dist.errors import CheckpointError
from darts_dist.nets.pure import pure
from darts_dist.nets.supernet import Supernet

VECTORS = pathlib.Path(__file__).parent / "data" / "parity"
OPERATIONS = tuple(Config().space.operations)
SUBSETS = [
    OPERATIONS,
    ("skip_connect",),
    ("none", "skip_connect", "max_pool_3x3"),
    ("dil_conv_5x5", "sep_conv_7x7", "none", "sep_conv_3x3", "avg_pool_3x3"),
]


def entries_of(nodes, operations, layers, channels=4, channels_in=3, classes=10):
    sizes = {"channels": channels, "channels_in": channels_in, "classes": classes}
    return list(interop.search_entries(**sizes, nodes=nodes, operations=operations, layers=layers))


def counted_state(entries):
    """A state dict in which every number is another one."""
    state, first = {}, 0
    for entry in entries:
        size = int(np.prod(entry.shape))
        state[entry.name] = np.arange(first, first + size, dtype=np.float32).reshape(entry.shape)
        first += size
    return state


def test_names_of_the_search_network_are_the_originals_in_its_order():
    settings = json.loads((VECTORS / "cnn_search.json").read_text())["cases"]["forward"]
    entries = entries_of(4, OPERATIONS, settings["layers"], channels=settings["C"])
    assert [entry.name for entry in entries] == settings["state_names"]
    params = [entry.name for entry in entries if entry.tree == interop.PARAMS]
    assert params == settings["param_names"]


@pytest.mark.parametrize("nodes", (1, 2, 3, 5))
@pytest.mark.parametrize("operations", SUBSETS, ids=len)
def test_trees_have_the_structure_and_shapes_of_the_network(nodes, operations):
    sizes = {"layers": 3, "nodes": nodes, "operations": operations}
    init, _ = pure(lambda key: Supernet(key, channels=4, classes=7, channels_in=2, **sizes))
    wanted = jax.eval_shape(init, jax.random.key(0))
    entries = entries_of(nodes, operations, 3, channels_in=2, classes=7)
    found = interop.search_from_torch(counted_state(entries), **sizes)
    for ours, net in zip(found, wanted, strict=True):
        assert jax.tree.structure(ours) == jax.tree.structure(net)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.shape == b.shape, ours, net)))


@pytest.mark.parametrize("operations", SUBSETS, ids=len)
def test_there_and_back_is_the_same_and_loses_nothing(operations):
    sizes = {"layers": 4, "nodes": 3, "operations": operations}
    state = counted_state(entries_of(3, operations, 4))
    params, stats = interop.search_from_torch(state, **sizes)
    back = interop.search_to_torch(params, stats, **sizes)
    assert list(back) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
        assert back[name].dtype == value.dtype
    numbers = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves((params, stats))])
    assert np.array_equal(np.sort(numbers), np.arange(len(numbers)))


def test_gradients_have_names_without_statistics():
    sizes = {"layers": 3, "nodes": 2, "operations": OPERATIONS}
    entries = entries_of(2, OPERATIONS, 3)
    state = counted_state(entries)
    params, _ = interop.search_from_torch(state, **sizes)
    named = interop.search_to_torch(params, **sizes)
    assert list(named) == [entry.name for entry in entries if entry.tree == interop.PARAMS]
    back, none = interop.search_from_torch(named, **sizes, statistics=False)
    assert none == {} and jax.tree.structure(back) == jax.tree.structure(params)


def test_an_edge_by_node_lies_in_its_row_by_source():
    # Cells of two nodes: by node (0: 0 1) (1: 0 1 2), by source (0: 0 1) (1: 0 1) (2: 1).
    state = counted_state(entries_of(2, ("dil_conv_3x3",), 3))
    params, stats = interop.search_from_torch(
        state, nodes=2, operations=("dil_conv_3x3",), layers=3
    )
    kernels = params["cells"][0]["edges"]["depthwise_3"]
    for edge, row in enumerate((0, 2, 1, 3, 4)):
        weight = state[f"cells.0._ops.{edge}._ops.0.op.1.weight"]
        np.testing.assert_array_equal(kernels[row, 0], weight[:, 0].transpose(1, 2, 0))
        mean = state[f"cells.0._ops.{edge}._ops.0.op.3.running_mean"]
        found = stats["cells"][0]["edges"]["statistics"]["mean"][row, 0]
        np.testing.assert_array_equal(found, mean)


def test_counters_of_later_versions_do_not_matter():
    sizes = {"layers": 3, "nodes": 1, "operations": ("skip_connect",)}
    state = counted_state(entries_of(1, ("skip_connect",), 3))
    more = state | {"stem.1.num_batches_tracked": np.array(7)}
    for a, b in zip(
        jax.tree.leaves(interop.search_from_torch(state, **sizes)),
        jax.tree.leaves(interop.search_from_torch(more, **sizes)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_what_does_not_fit_is_named():
    sizes = {"layers": 3, "nodes": 2, "operations": OPERATIONS}
    state = counted_state(entries_of(2, OPERATIONS, 3))
    del state["cells.1.preprocess0.op.1.weight"]
    state["cells.9.extra"] = np.zeros(3)
    state["stem.1.bias"] = np.zeros(5)
    with pytest.raises(CheckpointError) as caught:
        interop.search_from_torch(state, **sizes)
    text = str(caught.value)
    assert "cells.1.preprocess0.op.1.weight is missing" in text
    assert "cells.9.extra is not part of this network" in text
    assert "stem.1.bias has the shape (5,), wanted (12,)" in text


def test_of_many_faults_a_few_are_shown_and_the_rest_counted():
    state = counted_state(entries_of(2, OPERATIONS, 3))
    with pytest.raises(CheckpointError, match=r"and [0-9]+ more"):
        interop.search_from_torch(state, layers=5, nodes=2, operations=OPERATIONS)


@pytest.mark.parametrize("state", ({}, {"stem.0.weight": np.zeros(3)}))
def test_weights_of_something_else_are_refused(state):
    with pytest.raises(CheckpointError, match=r"stem\.0\.weight"):
        interop.search_from_torch(state, layers=3, nodes=2, operations=OPERATIONS)
