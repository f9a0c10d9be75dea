"""The networks of a genotype: sizes, heads, drop-path, and that layout and recomputing change
nothing."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darts_dist.errors import ConfigError
from darts_dist.genotype import CNN_OPERATIONS, PUBLISHED, CnnGenotype
from darts_dist.nets import drop_path
from darts_dist.nets.layout import LAYOUTS
from darts_dist.nets.network import Network, drop_paths, window_means
from darts_dist.nets.pure import pure
from darts_dist.rules import auxiliary_px

SMALL = CnnGenotype(  # every kind of operation, few nodes
    normal=(("sep_conv_3x3", 0), ("skip_connect", 1), ("avg_pool_3x3", 2), ("dil_conv_3x3", 0)),
    normal_concat=(3, 1),
    reduce=(("skip_connect", 0), ("max_pool_3x3", 1), ("conv_7x1_1x7", 1), ("none", 2)),
    reduce_concat=(2, 3),
)
SIZES = {"genotype": SMALL, "channels": 2, "layers": 3, "classes": 5, "channels_in": 3}


def network(**sizes):
    return pure(lambda key: Network(key, **SIZES | sizes))


def images_of(px, count=4, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(1), (count, px, px, SIZES["channels_in"]), dtype)


def shapes_of(px, train, factors=None, **sizes):
    """Shapes of both outputs; running statistics must keep their tree."""
    init, apply = network(**sizes)
    params, stats = jax.eval_shape(init, jax.random.key(0))
    run = functools.partial(apply, train=train)
    images = jax.ShapeDtypeStruct((2, px, px, (SIZES | sizes)["channels_in"]), jnp.float32)
    outputs, moved = jax.eval_shape(run, params, stats, images, factors)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), moved) == jax.tree.map(
        lambda x: (x.shape, x.dtype), stats
    )
    return tuple(None if x is None else x.shape for x in outputs)


def genotype_of(nodes, concat):
    entries = [(CNN_OPERATIONS[k % 10], k % (2 + k // 2)) for k in range(2 * nodes)]
    return CnnGenotype(entries, concat, entries[::-1] if nodes == 1 else entries, (nodes + 1,))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("nodes", (1, 2, 3, 5))
def test_cells_of_any_nodes_and_concat_give_logits(layout, nodes):
    for concat in ((nodes + 1,), (0, 2), tuple(range(2, nodes + 2))):
        genotype = genotype_of(nodes, concat)
        shapes = shapes_of(16, True, genotype=genotype, layout=layout, layers=4)
        assert shapes == ((2, 5), None)


@pytest.mark.parametrize("stem", ("cifar", "imagenet"))
@pytest.mark.parametrize("name", ("NASNet", "AmoebaNet", "DARTS_V1", "DARTS_V2"))
def test_published_genotypes_give_logits(stem, name):
    sizes = {"genotype": PUBLISHED["cnn"][name], "stem": stem, "auxiliary": True}
    assert shapes_of(224, True, layers=6, **sizes) == ((2, 5), (2, 5))


@pytest.mark.parametrize("stem", ("cifar", "imagenet"))
def test_the_auxiliary_head_speaks_in_training_only(stem):
    for train, auxiliary, wanted in (
        (True, True, (2, 5)),
        (False, True, None),
        (True, False, None),
    ):
        px = 32 if stem == "cifar" else 64
        shapes = shapes_of(px, train, stem=stem, auxiliary=auxiliary, layers=4)
        assert shapes == ((2, 5), wanted)


@pytest.mark.parametrize(("stem", "smallest"), (("cifar", 6), ("imagenet", 34)))
def test_heads_serve_images_of_many_sizes_and_refuse_tiny_ones(stem, smallest):
    for px in (smallest, 2 * smallest, 96, 100, 320):
        sizes = {"stem": stem, "auxiliary": True, "layers": 2}
        assert shapes_of(px, True, **sizes) == ((2, 5), (2, 5))
        assert auxiliary_px(stem, px, 2) > 1
    assert auxiliary_px(stem, smallest - 2, 2) == 1
    with pytest.raises(ConfigError, match="at least 2x2 pixels"):
        shapes_of(smallest - 2, True, stem=stem, auxiliary=True, layers=2)


def test_the_originals_head_takes_the_images_that_leave_one_window():
    sizes = {"stem": "imagenet", "original": True}
    for px in (224, 256, 416):
        assert shapes_of(px, False, **sizes) == ((2, 5), None)
    for px in (192, 448):
        with pytest.raises(ConfigError, match="7x7 to 13x13 pixels"):
            shapes_of(px, False, **sizes)


def test_windows_are_the_originals_and_smaller_on_small_maps():
    x = jnp.arange(8.0)
    np.testing.assert_allclose(window_means(x, 0, 5, 3), (2, 5))
    np.testing.assert_allclose(window_means(x[:7], 0, 5, 2), (2, 4))
    np.testing.assert_allclose(window_means(jnp.arange(11.0), 0, 5, 3), (2, 5, 8))
    np.testing.assert_allclose(window_means(x[:5], 0, 5, 3), (1, 3))  # 0 1 2 and 2 3 4
    np.testing.assert_allclose(window_means(x[:2], 0, 5, 3), (0, 1))


def test_weights_are_of_the_given_type_and_logits_at_least_float32():
    init, apply = network(auxiliary=True)
    params, stats = jax.eval_shape(init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.bfloat16)
    run = functools.partial(apply, train=True)
    factors = jax.ShapeDtypeStruct((2, len(drop_paths(SMALL, layers=3))), jnp.float32)
    (logits, auxiliary), moved = jax.eval_shape(run, params, stats, images, factors)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, moved))} == {jnp.dtype("float32")}
    assert logits.dtype == auxiliary.dtype == jnp.float32


@pytest.mark.parametrize("layout", LAYOUTS)
def test_groups_of_examples_can_be_mapped_over(layout):
    init, apply = network(auxiliary=True, layout=layout)
    params, stats = jax.eval_shape(init, jax.random.key(0))

    def loss(params, stats, images, factors):
        run = jax.vmap(lambda own, drop: apply(params, stats, own, drop, train=True))
        (logits, auxiliary), moved = run(images, factors)
        assert logits.shape == auxiliary.shape == (2, 3, 5)
        return (logits + auxiliary).sum(), moved

    paths = len(drop_paths(SMALL, layers=SIZES["layers"]))
    shapes = ((2, 3, 32, 32, 3), (2, 3, paths))
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    grads, _ = jax.eval_shape(jax.grad(loss, has_aux=True), params, stats, *inputs)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)


def test_all_but_identities_can_be_dropped():
    # Cells 0 and 3 are normal, 1 and 2 reduce: there the skip from an input is no identity.
    assert drop_paths(SMALL, layers=4) == (
        *((0, n) for n in (0, 2, 3)),
        *((cell, n) for cell in (1, 2) for n in range(4)),
        *((3, n) for n in (0, 2, 3)),
    )


def test_factors_drop_at_their_probability_and_keep_the_mean():
    places = jnp.arange(4000)
    draw = jax.jit(drop_path.draw_factors, static_argnums=2)
    for probability in (0.2, 0.7):
        found = np.asarray(draw(jax.random.key(0), places, 3, probability))
        deviation = math.sqrt(probability / (1 - probability) / len(places))
        np.testing.assert_allclose(found.mean(0), 1, atol=4 * deviation)
        np.testing.assert_allclose(found[found > 0], 1 / (1 - probability), rtol=1e-6)
        assert abs(np.corrcoef(found.T)[np.triu_indices(3, 1)]).max() < 4 / math.sqrt(len(places))
    assert draw._cache_size() == 1  # another probability compiles nothing
    assert (draw(jax.random.key(0), places, 3, 0.0) == 1).all()
    assert (draw(jax.random.key(0), places, 3, 1.0) == 0).all()


def test_factors_follow_the_place_in_the_global_batch():
    key = jax.random.key(3)
    whole = drop_path.draw_factors(key, jnp.arange(8), 5, 0.5)
    part = drop_path.draw_factors(key, jnp.arange(4, 8), 5, 0.5)
    np.testing.assert_array_equal(whole[4:], part)
    other = drop_path.draw_factors(jax.random.key(4), jnp.arange(8), 5, 0.5)
    assert (whole != other).any()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_dropped_example_is_zero_and_the_others_are_scaled(layout):
    x = layout.from_images(images_of(4, count=3))
    factors = drop_path.factors([1, 0, 1], 0.2)
    found = drop_path.drop(x, factors, layout)
    for example, factor in enumerate((1.25, 0, 1.25)):
        kept, whole = (jnp.take(v, example, layout.batch) for v in (found, x))
        np.testing.assert_allclose(kept, factor * whole, rtol=1e-6)


@functools.cache
def compiled(layout, remat):
    """First weights and statistics of a small network, and its pass in training with gradients."""
    with jax.enable_x64(True):
        init, apply = network(layout=layout, remat=remat, auxiliary=True, dtype=jnp.float64)
        params, stats = init(jax.random.key(0))

        def loss(params, factors):
            images = images_of(16, dtype=jnp.float64)
            outputs, moved = apply(params, stats, images, factors, train=True)
            return sum(jnp.sin(3 * x).sum() for x in outputs), (outputs, moved)

        return params, stats, jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def passes(layout, remat, probability=None):
    """((loss, (outputs, statistics)), gradients); probability: None without drop-path."""
    params, _, run = compiled(layout, remat)
    with jax.enable_x64(True):
        if probability is None:
            return run(params, None)
        paths = len(drop_paths(SMALL, layers=SIZES["layers"]))
        draw = functools.partial(drop_path.draw_factors, jax.random.key(2), jnp.arange(4), paths)
        return run(params, draw(probability))


def near(found, wanted, rtol=1e-9):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        limit, name = rtol * max(1e-3, np.abs(b).max()), jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=0, atol=limit, err_msg=name)


@pytest.mark.medium
def test_layouts_agree():
    near(passes("batch_minor", False), passes("channels_last", False))


@pytest.mark.medium
@pytest.mark.parametrize("layout", LAYOUTS)
def test_recomputing_cells_changes_no_number(layout):
    near(passes(layout, True), passes(layout, False))


@pytest.mark.medium
def test_statistics_move_and_every_parameter_has_a_gradient():
    _, stats, _ = compiled("channels_last", False)
    (_, (_, moved)), grads = passes("channels_last", False)
    for before, after in zip(jax.tree.leaves(stats), jax.tree.leaves(moved), strict=True):
        assert np.isfinite(after).all() and (after != before).any()
    for path, grad in jax.tree.leaves_with_path(grads):
        assert np.isfinite(grad).all() and np.abs(grad).max() > 1e-9, jax.tree_util.keystr(path)


@pytest.mark.medium
def test_dropping_nothing_is_no_drop_path_and_dropping_some_is_another_course():
    plain, none, some = (passes("channels_last", False, p) for p in (None, 0.0, 0.5))
    near(none, plain)
    assert abs(float(some[0][0]) - float(plain[0][0])) > 1e-3
    assert compiled("channels_last", False)[-1]._cache_size() == 2  # with and without


def test_evaluation_moves_no_statistics():
    init, apply = network(layers=1, channels=1)
    params, stats = init(jax.random.key(0))
    _, kept = apply(params, stats, images_of(8), train=False)
    jax.tree.map(np.testing.assert_array_equal, kept, stats)


@pytest.mark.medium
def test_four_devices_that_share_statistics_are_one(float64):
    images, layers = images_of(16, count=8, dtype=jnp.float64), 2
    paths = len(drop_paths(SMALL, layers=layers))
    sizes = {"auxiliary": True, "layers": layers, "dtype": jnp.float64, "layout": "channels_last"}
    params, stats = network(**sizes)[0](jax.random.key(0))

    def outputs(images, places, axis_name=None):
        _, apply = network(**sizes, axis_name=axis_name)
        factors = drop_path.draw_factors(jax.random.key(2), places, paths, 0.3)
        return apply(params, stats, images, factors, train=True)

    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    data, whole = jax.P("data"), jax.P()
    shared = jax.shard_map(
        functools.partial(outputs, axis_name="data"),
        mesh=mesh,
        in_specs=(data, data),
        out_specs=(data, whole),
    )
    near(*(jax.jit(run)(images, jnp.arange(8)) for run in (shared, outputs)))
