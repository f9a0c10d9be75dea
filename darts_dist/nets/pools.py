"""3x3 pooling on maps of either layout, as maxima and sums of shifted views.

`jnp.maximum` alone would share the gradient of a tie; here it goes to the first maximum of a
window, as the original's does (padding and cutout make ties common).  Works on any map with two
space axes; `axes` = (height, width) are counted
from the end, `height` and `width` are the unpooled map's.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from darts_dist.nets.primitives import alike, linear_pair


def _views(x, axes, stride, fill):
    """The 9 shifted (and strided) views of a map, row by row, padded by 1:
    ceil(H / stride) x ceil(W / stride) each.
    """
    config = [(0, 0, 0)] * x.ndim
    for axis in axes:
        config[axis] = (1, 1, 0)
    padded = lax.pad(x, jnp.asarray(fill, x.dtype), config)
    out = []
    for shift in np.ndindex(3, 3):
        index = [slice(None)] * x.ndim
        for axis, at in zip(axes, shift, strict=True):
            index[axis] = slice(at, at + (x.shape[axis] - 1) // stride * stride + 1, stride)
        out.append(padded[tuple(index)])
    return out


def _spread(g, axes, stride, height, width, fill):
    """Pooled values back at the pixels of their windows' centres, `fill` elsewhere."""
    config = [(0, 0, 0)] * g.ndim
    for axis, size in zip(axes, (height, width), strict=True):
        config[axis] = (0, size - ((g.shape[axis] - 1) * stride + 1), stride - 1)
    return lax.pad(g, jnp.asarray(fill, g.dtype), config)


def _pooled_shape(x, *_, axes, stride, height, width):
    return _with_sides(x, axes, -(-height // stride), -(-width // stride))


def _whole_shape(g, *_, axes, stride, height, width):
    return _with_sides(g, axes, height, width)


def _with_sides(shape, axes, height, width):
    shape = list(shape)
    shape[axes[0]], shape[axes[1]] = height, width
    return tuple(shape)


def _pick_impl(x, first, *, axes, stride, height, width):
    """From each window the element that `first` (int8, 0..8, row by row) points to."""
    shifted = _views(x, axes, stride, 0)
    zero = jnp.zeros((), x.dtype)
    return functools.reduce(jnp.add, [jnp.where(first == k, shifted[k], zero) for k in range(9)])


def _put_impl(g, first, *, axes, stride, height, width):
    """Each pooled value where `first` points to; a pixel sums over the windows that chose it."""
    values = _views(_spread(g, axes, stride, height, width, 0), axes, 1, 0)
    chosen = _views(_spread(first, axes, stride, height, width, -1), axes, 1, -1)
    zero = jnp.zeros(
        (), g.dtype
    )  # the window whose centre lies at view 8 - k sees this pixel as its element k
    terms = [jnp.where(chosen[8 - k] == k, values[8 - k], zero) for k in range(9)]
    return functools.reduce(jnp.add, terms)


def _sum_impl(x, *, axes, stride, height, width):
    return functools.reduce(jnp.add, _views(x, axes, stride, 0))


def _sum_back_impl(g, *, axes, stride, height, width):
    return functools.reduce(jnp.add, _views(_spread(g, axes, stride, height, width, 0), axes, 1, 0))


_pick, _put = linear_pair("window_pick", _pick_impl, _pooled_shape, _put_impl, _whole_shape)
_sum, _sum_back = linear_pair("window_sum", _sum_impl, _pooled_shape, _sum_back_impl, _whole_shape)


def _sizes(x, axes, stride):
    return {"axes": axes, "stride": stride, "height": x.shape[axes[0]], "width": x.shape[axes[1]]}


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def max_pool(x, axes, stride):
    """Returns the 3x3 maximum, padded by -inf;
    its gradient goes to the first maximum of a window.
    """
    return functools.reduce(jnp.maximum, _views(x, axes, stride, -np.inf))


@max_pool.defjvp
def _max_pool_jvp(axes, stride, primals, tangents):
    (x,), (t,) = primals, tangents
    shifted = _views(x, axes, stride, -np.inf)
    best, first = shifted[0], jnp.zeros(shifted[0].shape, jnp.int8)
    for k in range(1, 9):
        better = shifted[k] > best
        best = jnp.where(better, shifted[k], best)
        first = jnp.where(better, jnp.int8(k), first)
    t, first = alike(t, lax.stop_gradient(first))
    return max_pool(x, axes, stride), _pick.bind(t, first, **_sizes(x, axes, stride))


def avg_pool(x, axes, stride):
    """Returns the 3x3 mean over the real pixels of each window (padding does not count)."""

    def real(size):
        rows = np.arange(size)[::stride]
        return np.minimum(rows + 1, size - 1) - np.maximum(rows - 1, 0) + 1

    share = 1.0 / np.outer(real(x.shape[axes[0]]), real(x.shape[axes[1]]))
    shape = [1] * x.ndim
    shape[axes[0]], shape[axes[1]] = share.shape
    return _sum.bind(x, **_sizes(x, axes, stride)) * jnp.asarray(share.reshape(shape), x.dtype)
