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


def _taps(padded, w, stride, dilation, height, width):
    """Sum over taps of shifted `padded` f[..., C, Hp, Wp, N] times w f[..., k, k, C]:
    [..., C, height, width, N].
    """
    k = w.shape[-2]
    total = None
    for i in range(k):
        for j in range(k):
            rows = slice(i * dilation, i * dilation + (height - 1) * stride + 1, stride)
            columns = slice(j * dilation, j * dilation + (width - 1) * stride + 1, stride)
            term = padded[..., rows, columns, :] * w[..., i, j, :, None, None, None]
            total = term if total is None else total + term
    return total


def _output_impl(x, w, *, k, stride, dilation, height, width):
    pad = dilation * (k // 2)
    padded = _pad(x, (pad, pad), (pad, pad), 0)
    return _taps(padded[:, None], w, stride, dilation, -(-height // stride), -(-width // stride))


def _picture_impl(g, w, *, k, stride, dilation, height, width):
    """Cotangent of the picture, f[G, C, H, W, N], from g f[G, M, C, Ho, Wo, N]."""
    pad = dilation * (k // 2)
    high = [
        pad + size - ((out - 1) * stride + 1)
        for size, out in zip((height, width), g.shape[-3:-1], strict=True)
    ]
    padded = _pad(g, (pad, pad), high, stride - 1)
    w = w[:, :, ::-1, ::-1]
    if w.shape[1] == 1:
        # Group by group: as one kernel XLA would repeat all taps in each of its consumers.
        return lax.map(
            lambda own: _taps(own[0], own[1], 1, dilation, height, width), (padded[:, 0], w[:, 0])
        )

    # One fused body, looped over the filters: as an unrolled sum XLA splits the taps into k * k
    # kernels.
    def body(m, total):
        at = functools.partial(lax.dynamic_index_in_dim, index=m, axis=1, keepdims=False)
        return total + _taps(at(padded), at(w), 1, dilation, height, width)

    start = jnp.zeros_like(
        padded, shape=(*padded.shape[:1], padded.shape[2], height, width, padded.shape[-1])
    )
    return lax.fori_loop(0, w.shape[1], body, start)


def _filter_impl(x, g, *, k, stride, dilation, height, width):
    """Cotangent of the filter, f[G, M, k, k, C]:
    all pairs of rows for each column of taps, as one matrix product.
    """
    G, M, C, Ho, Wo, N = g.shape
    pad = dilation * (k // 2)
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * 3 + [(pad, pad, 0), (0, 0, 0)])
    span = (Wo - 1) * stride + 1
    columns = [padded[..., j * dilation : j * dilation + span : stride, :] for j in range(k)]
    right = jnp.concatenate(columns, 2).reshape(G, C, k * height, Wo * N)
    left = jnp.swapaxes(g, 1, 2).reshape(G, C, M * Ho, Wo * N)
    products = lax.dot_general(left, right, (((3,), (3,)), ((0, 1), (0, 1))))
    hits = jnp.asarray(_hits(k, height, stride, dilation), x.dtype)  # [k, Ho, H]
    return jnp.einsum("gcmajh,iah->gmijc", products.reshape(G, C, M, Ho, k, height), hits)


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
