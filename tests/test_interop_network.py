"""The original's tensors and this package's trees, for the networks of one genotype."""

import jax
import numpy as np
import pytest

from darts_dist.errors import CheckpointError
from darts_dist.genotype import PUBLISHED, CnnGenotype
from darts_dist.interop import PARAMS
from darts_dist.interop_network import network_entries, network_from_torch, network_to_torch
from darts_dist.nets.network import Network
from darts_dist.nets.pure import pure

TWO_NODES = CnnGenotype(
    normal=(("skip_connect", 0), ("none", 1), ("max_pool_3x3", 2), ("skip_connect", 1)),
    normal_concat=(3,),
    reduce=(("skip_connect", 0), ("avg_pool_3x3", 1), ("conv_7x1_1x7", 2), ("dil_conv_5x5", 0)),
    reduce_concat=(3, 2),
)
CASES = [
    (TWO_NODES, "cifar", False),
    (TWO_NODES, "imagenet", True),
    (PUBLISHED["cnn"]["NASNet"], "cifar", True),
    (PUBLISHED["cnn"]["AmoebaNet"], "imagenet", False),
]
LAYERS = 3
cases = pytest.mark.parametrize(
    ("genotype", "stem", "auxiliary"), CASES, ids=("two", "two-aux", "nasnet", "amoebanet")
)


def sizes_of(genotype, stem, auxiliary):
    return {
        "genotype": genotype,
        "stem": stem,
        "auxiliary": auxiliary,
        "channels": 4,
        "channels_in": 2,
        "layers": LAYERS,
        "classes": 7,
    }


def counted_state(entries):
    """A state dict in which every number is another one."""
    state, first = {}, 0
    for entry in entries:
        size = int(np.prod(entry.shape))
        state[entry.name] = np.arange(first, first + size, dtype=np.float32).reshape(entry.shape)
        first += size
    return state


@cases
def test_trees_have_the_structure_and_shapes_of_the_network(genotype, stem, auxiliary):
    sizes = sizes_of(genotype, stem, auxiliary)
    init, _ = pure(lambda key: Network(key, **sizes))
    wanted = jax.eval_shape(init, jax.random.key(0))
    state = counted_state(network_entries(**sizes))
    found = network_from_torch(state, genotype=genotype, stem=stem, layers=LAYERS)
    for ours, net in zip(found, wanted, strict=True):
        assert jax.tree.structure(ours) == jax.tree.structure(net)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.shape == b.shape, ours, net)))


@cases
def test_there_and_back_is_the_same_and_loses_nothing(genotype, stem, auxiliary):
    naming = {"genotype": genotype, "stem": stem, "layers": LAYERS}
    state = counted_state(network_entries(**sizes_of(genotype, stem, auxiliary)))
    params, stats = network_from_torch(state, **naming)
    back = network_to_torch(params, stats, **naming)
    assert list(back) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    numbers = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves((params, stats))])
    assert np.array_equal(np.sort(numbers), np.arange(len(numbers)))


def test_momentum_buffers_go_the_same_way_without_statistics():
    genotype, stem, auxiliary = CASES[1]
    naming = {"genotype": genotype, "stem": stem, "layers": LAYERS}
    entries = list(network_entries(**sizes_of(genotype, stem, auxiliary)))
    state = counted_state(entries)
    params, _ = network_from_torch(state, **naming)
    named = network_to_torch(params, **naming)
    assert list(named) == [entry.name for entry in entries if entry.tree == PARAMS]
    back, none = network_from_torch(named, **naming, statistics=False)
    assert none == {} and jax.tree.structure(back) == jax.tree.structure(params)


def test_what_does_not_fit_is_named():
    genotype, stem, auxiliary = CASES[2]
    state = counted_state(network_entries(**sizes_of(genotype, stem, auxiliary)))
    del state["cells.1.preprocess0.op.1.weight"], state["auxiliary_head.features.6.running_var"]
    state["cells.9.extra"] = np.zeros(3)
    state["stem.1.bias"] = np.zeros(5)
    state["stem.1.num_batches_tracked"] = np.array(7)  # of later versions, does not matter
    with pytest.raises(CheckpointError) as caught:
        network_from_torch(state, genotype=genotype, stem=stem, layers=LAYERS)
    text = str(caught.value)
    assert "cells.1.preprocess0.op.1.weight is missing" in text
    assert "auxiliary_head.features.6.running_var is missing" in text
    assert "cells.9.extra is not part of this network" in text
    assert "stem.1.bias has the shape (5,), wanted (12,)" in text
    assert "num_batches_tracked" not in text


def test_weights_of_the_other_stem_or_of_another_genotype_are_refused():
    genotype, stem, auxiliary = CASES[2]
    state = counted_state(network_entries(**sizes_of(genotype, stem, auxiliary)))
    with pytest.raises(CheckpointError, match=r"stem0\.0\.weight is missing"):
        network_from_torch(state, genotype=genotype, stem="imagenet", layers=LAYERS)
    with pytest.raises(CheckpointError, match=r"and [0-9]+ more"):
        network_from_torch(state, genotype=TWO_NODES, stem=stem, layers=LAYERS)
