"""3x3 pooling on maps of either layout, as maxima and sums of shifted views.

A reduce-window max pool costs five times as much on CPU, and `jnp.maximum` alone would share the gradient of a tie;
here it goes to the first maximum of a window, as the original's does. Works on any map with two space axes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def views(x, axes, k, dilation, stride, fill):
    """Returns the k*k shifted (and strided) views of a map, row by row.

    x: array with space axes `axes` = (height, width), H x W.  Padding is (k // 2) * dilation of `fill` on every side.
    Each view has ceil(H / stride) x ceil(W / stride) pixels.
    """
    pad = dilation * (k // 2)
    config = [(0, 0, 0)] * x.ndim
    for axis in axes:
        config[axis] = (pad, pad, 0)
    padded = lax.pad(x, jnp.asarray(fill, x.dtype), config)
    out = []
    for i in range(k):
        for j in range(k):
            start, limit, step = [0] * x.ndim, list(padded.shape), [1] * x.ndim
            for axis, at in zip(axes, (i, j), strict=True):
                start[axis] = at * dilation
                limit[axis] = at * dilation + (x.shape[axis] - 1) // stride * stride + 1
                step[axis] = stride
            out.append(lax.slice(padded, start, limit, step))
    return out


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def max_pool(x, axes, stride):
    """Returns the 3x3 maximum, padded by -inf; its gradient goes to the first maximum of a window."""
    return functools.reduce(jnp.maximum, views(x, axes, 3, 1, stride, -np.inf))


@max_pool.defjvp
def _max_pool_jvp(axes, stride, primals, tangents):
    (x,), (t,) = primals, tangents
    shifted = views(x, axes, 3, 1, stride, -np.inf)
    best, first = shifted[0], jnp.zeros(shifted[0].shape, jnp.int8)
    for k in range(1, 9):
        better = shifted[k] > best
        best = jnp.where(better, shifted[k], best)
        first = jnp.where(better, jnp.int8(k), first)
    first = lax.optimization_barrier(lax.stop_gradient(first))
    moved = views(t, axes, 3, 1, stride, 0.0)
    chosen = [jnp.where(first == k, moved[k], jnp.zeros((), t.dtype)) for k in range(9)]
    return max_pool(x, axes, stride), functools.reduce(jnp.add, chosen)


def avg_pool(x, axes, stride):
    """Returns the 3x3 mean over the real pixels of each window (padding does not count)."""

    def real(size):
        rows = np.arange(size)[::stride]
        return np.minimum(rows + 1, size - 1) - np.maximum(rows - 1, 0) + 1

    share = 1.0 / np.outer(real(x.shape[axes[0]]), real(x.shape[axes[1]]))
    shape = [1] * x.ndim
    shape[axes[0]], shape[axes[1]] = share.shape
    total = functools.reduce(jnp.add, views(x, axes, 3, 1, stride, 0.0))
    return total * jnp.asarray(share.reshape(shape), x.dtype)
