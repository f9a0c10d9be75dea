"""The depthwise convolution of the batch-minor layout against lax.conv, in all derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh

from darts_dist.nets.depthwise import depthwise

G, M, C, N = 2, 3, 2, 3
CASES = [  # filter side, stride, dilation, height and width
    (3, 1, 1, (5, 4)),
    (3, 2, 1, (9, 12)),
    (3, 2, 2, (11, 9)),
    (5, 1, 2, (10, 9)),
    (5, 2, 1, (6, 7)),
    (7, 1, 1, (9, 10)),
]


def plain(x, w, *, stride, dilation):
    """The same by lax.conv, one group after another."""
    k = w.shape[2]
    pad = dilation * (k // 2)
    groups = []
    for g in range(x.shape[0]):
        kernels = jnp.transpose(w[g], (3, 0, 1, 2)).reshape(-1, 1, k, k)  # C * M filters
        y = lax.conv_general_dilated(
            jnp.transpose(x[g], (3, 0, 1, 2)),
            kernels,
            (stride, stride),
            [(pad, pad)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
            feature_group_count=x.shape[1],
        )
        y = y.reshape(y.shape[0], x.shape[1], -1, *y.shape[2:])
        groups.append(jnp.transpose(y, (2, 1, 3, 4, 0)))
    return jnp.stack(groups)


def arrays(k, size, seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(G, C, *size, N)), draw.normal(size=(G, M, k, k, C))


def close(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("k", "stride", "dilation", "size"), CASES)
def test_every_derivative_is_that_of_the_plain_convolution(float64, k, stride, dilation, size):
    x, w = arrays(k, size)
    dx, dw = arrays(k, size, seed=1)

    def orders(conv):
        """Value, gradient, directional derivative and the gradient of that."""
        f = functools.partial(conv, stride=stride, dilation=dilation)

        def loss(x, w):
            return jnp.square(f(x, w)).sum()

        def along(x, w):
            return jax.jvp(loss, (x, w), (dx, dw))[1]

        def every(x, w):
            return f(x, w), jax.grad(loss, (0, 1))(x, w), along(x, w), jax.grad(along, (0, 1))(x, w)

        return jax.jit(every)(x, w)

    for found, wanted in zip(orders(depthwise), orders(plain), strict=True):
        scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
        close(
            jax.tree.map(lambda v, s=scale: v / s, found),
            jax.tree.map(lambda v, s=scale: v / s, wanted),
        )


@pytest.mark.parametrize("size", ((4, 5), (9, 10)), ids=("small", "large"))
@pytest.mark.parametrize("axes", ((0, 0), (0, None), (None, 0), (3, 2), (4, None)))
def test_vmap_is_a_loop(float64, size, axes):
    x, w = arrays(3, size)
    many = [
        v if axis is None else np.stack([v, 2 * v, v - 1], axis)
        for v, axis in zip((x, w), axes, strict=True)
    ]

    def gradients(x, w):
        def loss(x, w):
            return jnp.square(depthwise(x, w, stride=2, dilation=1)).sum()

        return depthwise(x, w, stride=2, dilation=1), jax.grad(loss, (0, 1))(x, w)

    found = jax.vmap(gradients, axes)(*many)
    for i in range(3):
        own = [
            v if axis is None else np.take(v, i, axis) for v, axis in zip(many, axes, strict=True)
        ]
        close(jax.tree.map(lambda v, i=i: v[i], found), gradients(*own))


@pytest.mark.parametrize("size", ((4, 5), (9, 10)), ids=("small", "large"))
def test_under_shard_map_the_batch_may_be_split(float64, size):
    mesh = Mesh(np.array(jax.devices()[:N]), ("data",), axis_types=(AxisType.Auto,))
    x, w = arrays(5, size)

    def loss(x, w):
        return jnp.square(depthwise(x, w, stride=1, dilation=2)).sum()

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(jax.P(None, None, None, None, "data"), jax.P()),
        out_specs=(jax.P(None, None, None, None, "data"), jax.P()),
    )
    def split(x, w):
        return jax.grad(loss, (0, 1))(x, w)  # the shared filter's gradient is summed over "data"

    close(jax.jit(split)(x, w), jax.grad(loss, (0, 1))(x, w))
