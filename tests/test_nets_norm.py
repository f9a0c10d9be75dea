"""Batch norms: a second pass changes no derivative, and few close values lose no digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darts_dist.nets.init import Keys
from darts_dist.nets.layout import LAYOUTS
from darts_dist.nets.norm import BatchNorm
from darts_dist.nets.pure import pure

layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def norm(layout, dtype, **options):
    options |= {"layout": layout, "affine": True, "dtype": dtype}
    return pure(lambda key: BatchNorm(3, keys=Keys(key), **options))


@layouts
def test_few_values_close_together_keep_their_digits(layout):
    images = 10 + 1e-2 * np.random.default_rng(0).normal(size=(2, 1, 1, 3))
    x = layout.from_images(jnp.asarray(images, jnp.float32))
    seen = np.asarray(x, np.float64)
    mean, deviation = (f(seen, layout.batch, keepdims=True) for f in (np.mean, np.std))
    wanted = (seen - mean) / np.sqrt(deviation**2 + 1e-5)

    def error(two_pass):
        init, apply = norm(layout, jnp.float32, two_pass=two_pass, init="modern")
        found, _ = apply(*init(jax.random.key(0)), x, train=True)
        return np.abs(found - wanted).max()

    assert error(two_pass=True) < 1e-3 < 1e-2 < error(two_pass=False)


@layouts
def test_a_second_pass_changes_no_number_on_one_device_or_four(float64, layout):
    images = np.random.default_rng(0).normal(1, 2, (8, 2, 2, 3))
    weight = jnp.asarray(np.random.default_rng(1).normal(size=images.shape))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    out = []
    for two_pass in (False, True):
        for axis_name in (None, "data"):
            init, apply = norm(layout, jnp.float64, two_pass=two_pass, axis_name=axis_name)
            params, stats = init(jax.random.key(0))

            def loss(x, w, apply=apply, params=params, stats=stats, axis_name=axis_name):
                y, moved = apply(params, stats, layout.from_images(x), train=True)
                value = (jnp.tanh(y) * layout.from_images(w)).sum()
                return (jax.lax.psum(value, "data") if axis_name else value), moved

            run = jax.value_and_grad(loss, has_aux=True)
            if axis_name:
                batch, whole = jax.P("data"), jax.P()
                specs = {"in_specs": (batch, batch), "out_specs": ((whole, whole), batch)}
                run = jax.shard_map(run, mesh=mesh, **specs)
            out.append(jax.jit(run)(jnp.asarray(images), weight))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
    for other in out[1:]:
        jax.tree.map(close, other, out[0])
