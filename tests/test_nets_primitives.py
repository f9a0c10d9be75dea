"""Primitives with transposes of their own, against what they stand for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darts_dist.nets.primitives import pick, repeat, sum_axes

CASES = {
    "sum over one axis": (functools.partial(sum_axes, axes=(1,)), lambda x: x.sum(1)),
    "sum over two axes": (functools.partial(sum_axes, axes=(0, 2)), lambda x: x.sum((0, 2))),
    "pick": (
        functools.partial(pick, rows=(2, 0), columns=(3, 1, 0)),
        lambda x: x[:, (2, 0)][:, :, (3, 1, 0)],
    ),
    "repeat": (functools.partial(repeat, count=5), lambda x: jnp.stack([x] * 5)),
}


@pytest.mark.parametrize(("made", "plain"), CASES.values(), ids=CASES)
def test_all_orders_of_derivative_are_those_of_the_plain_form(float64, made, plain):
    draw = np.random.default_rng(0)
    x, t = (jnp.asarray(draw.normal(size=(2, 3, 4))) for _ in range(2))

    def orders(f):
        def loss(x):
            return (f(jnp.sin(x)) ** 3).sum()

        def along(x):
            return jax.jvp(loss, (x,), (t,))[1]

        batched = jax.vmap(f)(jnp.stack([x, t, x * t]))
        return f(x), jax.grad(loss)(x), jax.grad(along)(x), batched

    for found, wanted in zip(orders(made), orders(plain), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
