"""Depthwise convolution for CPU, batch-minor: one meaning, two forms, all orders of derivative.

A depthwise convolution is bilinear in picture and filter, so its three members (output,
cotangent of the picture, cotangent of the filter) are each other's transposes. They are bound as
primitives with `defbilinear`: any nesting of
jvp and vjp then stays within the three, where autodiff of a sum of shifts would store k*k
products and `lax.conv` with feature groups runs 20 to 90 times too slow on CPU. Maps of at most
`WHOLE_MAP` pixels a side use one matrix over
all pixels instead, pure matrix products.

Letters: G groups, M filters on one group's map, C channels, H W pixels, N batch, k filter side,
s stride, d dilation.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad, batching

from darts_dist.nets.primitives import alike, primitive

WHOLE_MAP = 8


def depthwise(x, w, *, stride, dilation):
    """Returns every filter applied to its group's map, channel by channel.

    x: f[G, C, H, W, N].  w: f[G, M, k, k, C], k odd.  Padding is (k // 2) * dilation.
    Result: f[G, M, C, ceil(H / stride), ceil(W / stride), N].
    """
    height, width = x.shape[-3:-1]
    if max(height, width) <= WHOLE_MAP:
        return _whole_map(x, w, stride, dilation)
    x, w = alike(x, w)
    return _output.bind(
        x, w, k=w.shape[2], stride=stride, dilation=dilation, height=height, width=width
    )


def _hits(k, size, stride, dilation):
    """0/1 array [k, out, in]:
    tap i of output o reads input position o * stride + i * dilation - pad.
    """
    out = -(-size // stride)
    at = np.arange(out)[None] * stride + (np.arange(k) * dilation - dilation * (k // 2))[:, None]
    return (at[..., None] == np.arange(size)).astype(np.float32)


def _whole_map(x, w, stride, dilation):
    G, M, k, _, C = w.shape
    H, W = x.shape[-3:-1]
    rows, columns = _hits(k, H, stride, dilation), _hits(k, W, stride, dilation)
    place = np.einsum("iah,jbw->ijabhw", rows, columns)
    Ho, Wo = place.shape[2:4]
    taps = jnp.moveaxis(w.reshape(G, M, k * k, C), 3, 1)  # [G, C, M, kk]
    matrix = taps @ jnp.asarray(place.reshape(1, 1, k * k, -1), w.dtype)
    y = matrix.reshape(G, C, M * Ho * Wo, H * W) @ x.reshape(G, C, H * W, -1)
    return jnp.swapaxes(y.reshape(G, C, M, Ho, Wo, -1), 1, 2)


def _pad(x, low, high, interior):
    zero = jnp.zeros((), x.dtype)
    config = [(0, 0, 0)] * x.ndim
    config[-3], config[-2] = zip(low, high, (interior, interior), strict=True)
    return lax.pad(x, zero, config)


def _taps(padded, w, stride, dilation, height, width, start=0, mirrored=False):
    """Sum over taps of shifted `padded`, f[G, M, C, Hp, Wp, N] or without M, times
    w f[G, M, k, k, C]: f[G, M, C, height, width, N].

    start: of the first tap.  mirrored: with w's taps in the opposite order.
    """
    k = w.shape[-2]
    terms = []
    for i, j in np.ndindex(k, k):
        top, left = start + i * dilation, start + j * dilation
        rows = slice(top, top + (height - 1) * stride + 1, stride)
        columns = slice(left, left + (width - 1) * stride + 1, stride)
        shifted = padded[..., rows, columns, :]
        if shifted.ndim < 6:  # one map for all filters; as a reshape XLA would move it to the pad
            whole = (*w.shape[:2], *shifted.shape[1:])
            shifted = lax.broadcast_in_dim(shifted, whole, (0, *range(2, 6)))
        tap = w[:, :, k - 1 - i, k - 1 - j] if mirrored else w[:, :, i, j]
        terms.append(shifted * tap[..., None, None, None])
    return functools.reduce(jnp.add, terms)


def _pad_picture(x, k, dilation, shared):
    """x padded by `_margin` on each side; the output and the filter's cotangent read the same."""
    margin = (_margin(k, dilation, shared),) * 2
    return _pad(x, margin, margin, 0)


def _margin(k, dilation, shared):
    """Pixels of padding: what a dilation of 2 takes where several filters read a map, so that
    convolutions of both dilations share one padded copy of it.
    """
    return (max(dilation, 2) if shared else dilation) * (k // 2)


def _output_impl(x, w, *, k, stride, dilation, height, width):
    shared = w.shape[1] > 1
    padded = _pad_picture(x, k, dilation, shared)
    start = _margin(k, dilation, shared) - dilation * (k // 2)
    sides = -(-height // stride), -(-width // stride)
    return _taps(padded, w, stride, dilation, *sides, start=start)


def _picture_impl(g, w, *, k, stride, dilation, height, width):
    """Cotangent of the picture, f[G, C, H, W, N], from g f[G, M, C, Ho, Wo, N]."""
    pad = dilation * (k // 2)
    high = [
        pad + size - ((out - 1) * stride + 1)
        for size, out in zip((height, width), g.shape[-3:-1], strict=True)
    ]
    padded = _pad(g, (pad, pad), high, stride - 1)
    shares = _taps(padded, w, 1, dilation, height, width, mirrored=True)
    # Added filter by filter the sum is part of that kernel; `sum` would be one without vectors.
    # As a kernel of its own: XLA would repeat all taps in each that takes the result.
    return lax.optimization_barrier(
        functools.reduce(jnp.add, [shares[:, m] for m in range(w.shape[1])])
    )


def _filter_impl(x, g, *, k, stride, dilation, height, width):
    """Cotangent of the filter, f[G, M, k, k, C]:
    all pairs of rows for each column of taps, as one matrix product.
    """
    G, M, C, Ho, Wo, N = g.shape
    shared = M > 1
    margin = _margin(k, dilation, shared)
    padded = _pad_picture(x, k, dilation, shared)[..., margin : margin + height, :, :]
    start, span = margin - dilation * (k // 2), (Wo - 1) * stride + 1
    lefts = [start + j * dilation for j in range(k)]
    columns = [padded[..., left : left + span : stride, :] for left in lefts]
    right = jnp.concatenate(columns, 2).reshape(G, C, k * height, Wo * N)
    left = jnp.swapaxes(g, 1, 2).reshape(G, C, M * Ho, Wo * N)
    products = lax.dot_general(left, right, (((3,), (3,)), ((0, 1), (0, 1))))
    hits = jnp.asarray(_hits(k, height, stride, dilation), x.dtype)  # [k, Ho, H]
    # A sum over masked products is one kernel, where a product with `hits` takes three.
    products = products.reshape(G, C, M, 1, Ho, k, height)
    hits = hits[None, None, None, :, :, None]
    sums = (products * hits).sum((4, 6))  # G, C, M, k, k
    return jnp.moveaxis(sums, 1, -1)


def _primitive(name, impl, shape, second_is_filter=True):
    made = primitive(name, impl, shape)

    def batch(arrays, axes, **sizes):
        """Batched maps with shared filters join the batch axis N; all else joins the groups G."""
        if second_is_filter and axes[1] is None:
            x = jnp.moveaxis(arrays[0], axes[0], -2)
            out = made.bind(x.reshape((*x.shape[:-2], -1)), arrays[1], **sizes)
            return out.reshape((*out.shape[:-1], *x.shape[-2:])), out.ndim - 1
        size = next(x.shape[a] for x, a in zip(arrays, axes, strict=True) if a is not None)
        joined = [
            jnp.moveaxis(x, a, 0) if a is not None else jnp.broadcast_to(x[None], (size, *x.shape))
            for x, a in zip(arrays, axes, strict=True)
        ]
        out = made.bind(*(x.reshape((-1, *x.shape[2:])) for x in joined), **sizes)
        return out.reshape((size, -1, *out.shape[1:])), 0

    batching.primitive_batchers[made] = batch
    return made


def _output_shape(x, w, *, k, stride, dilation, height, width):
    return (x[0], w[1], x[1], -(-height // stride), -(-width // stride), x[4])


def _picture_shape(g, w, *, k, stride, dilation, height, width):
    return (g[0], g[2], height, width, g[5])


def _filter_shape(x, g, *, k, stride, dilation, height, width):
    return (g[0], g[1], k, k, g[2])


_output = _primitive("depthwise", _output_impl, _output_shape)
_picture = _primitive("depthwise_picture", _picture_impl, _picture_shape)
_filter = _primitive("depthwise_filter", _filter_impl, _filter_shape, second_is_filter=False)


ad.defbilinear(
    _output,
    lambda t, x, w, **sizes: _picture.bind(t, w, **sizes),
    lambda t, x, w, **sizes: _filter.bind(x, t, **sizes),
)
ad.defbilinear(
    _picture,
    lambda t, g, w, **sizes: _output.bind(t, w, **sizes),
    lambda t, g, w, **sizes: _filter.bind(t, g, **sizes),
)
ad.defbilinear(
    _filter,
    lambda t, x, g, **sizes: _picture.bind(g, t, **sizes),
    lambda t, x, g, **sizes: _output.bind(x, t, **sizes),
)
