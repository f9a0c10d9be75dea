"""Depthwise convolution for CPU, batch-minor: one meaning, two forms, all orders of derivative.

A depthwise convolution is bilinear in picture and filter, so its three members (output, cotangent of the picture,
cotangent of the filter) are each other's transposes. They are bound as primitives with `defbilinear`: any nesting of
jvp and vjp then stays within the three, where autodiff of a sum of shifts would store k*k products and `lax.conv`
with feature groups runs 20 to 90 times too slow on CPU. Maps of at most `WHOLE_MAP` pixels a side use one matrix over
all pixels instead, pure matrix products.

Letters: G groups, M filters on one group's map, C channels, H W pixels, N batch, k filter side, s stride, d dilation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

WHOLE_MAP = 8


def depthwise(x, w, *, stride, dilation):
    """Returns every filter applied to its group's map, channel by channel.

    x: f[G, C, H, W, N].  w: f[G, M, k, k, C], k odd.  Padding is (k // 2) * dilation.
    Result: f[G, M, C, ceil(H / stride), ceil(W / stride), N].
    """
    height, width = x.shape[-3:-1]
    if max(height, width) <= WHOLE_MAP:
        return _whole_map(x, w, stride, dilation)
    x, w = _alike(x, w)
    return _output.bind(
        x, w, k=w.shape[2], stride=stride, dilation=dilation, height=height, width=width
    )


def _alike(*arrays):
    """The arrays, each varying over every mesh axis that one of them varies over (as jax does for its own)."""
    axes = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    every = frozenset().union(*axes)
    return [
        lax.pcast(x, tuple(every - own), to="varying") if every - own else x
        for x, own in zip(arrays, axes, strict=True)
    ]


def _hits(k, size, stride, dilation):
    """0/1 array [k, out, in]: tap i of output o reads input position o * stride + i * dilation - pad."""
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
    """Sum over taps of shifted `padded` f[..., C, Hp, Wp, N] times w f[..., k, k, C]: [..., C, height, width, N]."""
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
        return _taps(padded[:, 0], w[:, 0], 1, dilation, height, width)

    # One fused body, looped over the filters: as an unrolled sum XLA splits the taps into k * k kernels.
    def body(m, total):
        at = functools.partial(lax.dynamic_index_in_dim, index=m, axis=1, keepdims=False)
        return total + _taps(at(padded), at(w), 1, dilation, height, width)

    start = _taps(padded[:, 0], w[:, 0], 1, dilation, height, width)
    return lax.fori_loop(1, w.shape[1], body, start)


def _filter_impl(x, g, *, k, stride, dilation, height, width):
    """Cotangent of the filter, f[G, M, k, k, C]: one matrix product of rows for each column of taps."""
    G, M, C, Ho, Wo, N = g.shape
    pad = dilation * (k // 2)
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * 3 + [(pad, pad, 0), (0, 0, 0)])
    left = jnp.swapaxes(g, 1, 2).reshape(G, C, M * Ho, Wo * N)
    products = []
    for j in range(k):
        columns = slice(j * dilation, j * dilation + (Wo - 1) * stride + 1, stride)
        right = padded[..., columns, :].reshape(G, C, height, Wo * N)
        products.append(lax.dot_general(left, right, (((3,), (3,)), ((0, 1), (0, 1)))))
    stacked = jnp.stack(products).reshape(k, G, C, M, Ho, height)
    hits = jnp.asarray(_hits(k, height, stride, dilation), x.dtype)  # [k, Ho, H]
    return jnp.einsum("jgcmah,iah->gmijc", stacked, hits)


def _primitive(name, impl, shape, second_is_filter=True):
    """A bilinear primitive with the lowering of `impl`; `shape(a, b, **sizes)` gives its result's shape."""
    primitive = Primitive(name)

    # One function for all calls outside of jit, so that it compiles once a shape.
    evaluate = jax.jit(impl, static_argnames=("k", "stride", "dilation", "height", "width"))

    def abstract(a, b, **sizes):
        out = shape(a.shape, b.shape, **sizes)
        sharding = jax.NamedSharding(a.sharding.mesh, jax.P(*[None] * len(out)))
        return jax.core.ShapedArray(
            out, a.dtype, sharding=sharding, manual_axis_type=a.manual_axis_type
        )

    def batch(arguments, axes, **sizes):
        """Batched maps with shared filters join the batch axis N; all else joins the groups G."""
        if second_is_filter and axes[1] is None:
            x = jnp.moveaxis(arguments[0], axes[0], -2)
            out = primitive.bind(x.reshape((*x.shape[:-2], -1)), arguments[1], **sizes)
            return out.reshape((*out.shape[:-1], *x.shape[-2:])), out.ndim - 1
        size = next(x.shape[a] for x, a in zip(arguments, axes, strict=True) if a is not None)
        joined = [
            jnp.moveaxis(x, a, 0) if a is not None else jnp.broadcast_to(x[None], (size, *x.shape))
            for x, a in zip(arguments, axes, strict=True)
        ]
        out = primitive.bind(*(x.reshape((-1, *x.shape[2:])) for x in joined), **sizes)
        return out.reshape((size, -1, *out.shape[1:])), 0

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(impl, multiple_results=False))
    return primitive


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
