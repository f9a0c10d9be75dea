"""The search network: sizes, shapes, stems, and that recomputing changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darts_dist.config import Config
from darts_dist.nets.layout import LAYOUTS
from darts_dist.nets.pure import pure
from darts_dist.nets.rows import edge_order
from darts_dist.nets.supernet import Supernet, is_reduction

OPERATIONS = tuple(Config().space.operations)
SKIPS = ("none", "skip_connect", "max_pool_3x3")
SMALL = {"channels": 4, "layers": 3, "nodes": 2, "classes": 10, "channels_in": 3}


def network(**sizes):
    return pure(lambda key: Supernet(key, **SMALL | {"operations": OPERATIONS} | sizes))


def weights_of(nodes, operations, dtype=jnp.float32):
    rows = np.random.default_rng(0).dirichlet(np.ones(len(operations)), len(edge_order(nodes)))
    return {cell: jnp.asarray(rows, dtype) for cell in ("normal", "reduce")}


def shapes_of(px, sizes, *, train=True):
    """The shape of the logits of two pictures; running statistics must keep their tree."""
    init, apply = network(**sizes)
    params, stats = jax.eval_shape(init, jax.random.key(0))
    sizes = SMALL | {"operations": OPERATIONS} | sizes
    images = jax.ShapeDtypeStruct((2, px, px, sizes["channels_in"]), jnp.float32)
    weights = weights_of(sizes["nodes"], sizes["operations"])
    logits, moved = jax.eval_shape(
        functools.partial(apply, train=train), params, stats, images, weights
    )
    assert jax.tree.structure(moved) == jax.tree.structure(stats)
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, stats)
    return logits.shape


def count(**sizes):
    params, _ = jax.eval_shape(network(**sizes)[0], jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("channels", "layers", "wanted"), ((16, 8, 1_930_618), (6, 20, 897_640)), ids=("8", "20")
)
def test_parameters_are_as_many_as_the_originals(channels, layers, wanted):
    assert count(channels=channels, layers=layers, nodes=4) == wanted


def test_cells_at_one_and_two_thirds_reduce():
    assert [i for i in range(8) if is_reduction(i, 8)] == [2, 5]
    assert [i for i in range(20) if is_reduction(i, 20)] == [6, 13]
    assert [i for i in range(2) if is_reduction(i, 2)] == [0, 1]
    assert [i for i in range(1) if is_reduction(i, 1)] == [0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "sizes",
    (
        {"nodes": 1},
        {"nodes": 3, "classes": 5, "channels_in": 1},
        {"nodes": 5, "channels": 6, "operations": SKIPS},
        {"layers": 1, "operations": ("skip_connect",)},
        {"layers": 2, "operations": ("none",)},
        {"layers": 6, "operations": ("dil_conv_3x3", "avg_pool_3x3")},
        {"channels": 3, "operations": ("sep_conv_7x7", "skip_connect")},
    ),
    ids=str,
)
def test_networks_of_any_size_and_set_give_logits(layout, sizes):
    for train in (True, False):
        found = shapes_of(20, sizes | {"layout": layout}, train=train)
        assert found == (2, sizes.get("classes", 10))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_imagenet_stem_gives_states_at_a_quarter_and_an_eighth(layout):
    sizes = {"stem": "imagenet", "channels": 8, "classes": 1000, "layout": layout}
    assert shapes_of(224, sizes) == (2, 1000)

    def states(key):
        net = Supernet(key, **SMALL | sizes | {"operations": SKIPS})
        images = jnp.zeros((2, 224, 224, 3))
        return net.stem(net.layout.from_images(images), train=True)

    shapes = [state.shape for state in jax.eval_shape(states, jax.random.key(0))]
    for shape, px in zip(shapes, (56, 28), strict=True):
        assert sorted(shape) == sorted((2, px, px, 8))


@pytest.mark.medium
@pytest.mark.parametrize("layout", LAYOUTS)
def test_recomputing_cells_changes_no_number(float64, layout):
    sizes = {"layers": 2, "nodes": 1, "operations": (*SKIPS, "dil_conv_3x3"), "layout": layout}
    weights = weights_of(1, sizes["operations"], jnp.float64)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3), jnp.float64)
    out = []
    for remat in (False, True):
        init, apply = network(**sizes, dtype=jnp.float64, remat=remat)
        params, stats = init(jax.random.key(0))

        def loss(params, weights, apply=apply, stats=stats):
            logits, moved = apply(params, stats, images, weights, train=True)
            return jnp.square(logits).sum(), (logits, moved)

        out.append(jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, weights))
    assert jax.tree.structure(out[0]) == jax.tree.structure(out[1])
    for a, b in zip(*map(jax.tree.leaves, out), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
