"""Candidate operations one by one, as fixed networks use them, and the convolutions of stems and
preprocessing.

The search network computes the same operations for all edges at once (`cells.SearchCell`).
Source of the structures: arXiv 1806.09055 and its code; each takes and returns one map of C
channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from darts_dist.nets import init as initial
from darts_dist.nets.layout import avg_pool, max_pool, subsample
from darts_dist.nets.norm import BatchNorm


class Identity(nnx.Module):
    """The map itself."""

    def __call__(self, x, *, train):
        return x


class Zero(nnx.Module):
    """Zeros, of every second row and column with stride 2."""

    def __init__(self, stride, layout):
        self.stride, self.layout = stride, layout

    def __call__(self, x, *, train):
        return (subsample(x, self.layout, 0) if self.stride == 2 else x) * jnp.zeros((), x.dtype)


class Pool(nnx.Module):
    """3x3 max or average pooling, padding never counted."""

    def __init__(self, pool, stride, layout):
        self.pool, self.stride, self.layout = pool, stride, layout

    def __call__(self, x, *, train):
        return self.pool(x, self.layout, self.stride)


class ReluConvBN(nnx.Module):
    """ReLU, 1x1 convolution C -> D, batch norm (left to the caller of `raw` with `norm=False`)."""

    def __init__(
        self,
        channels_in,
        channels,
        *,
        keys,
        layout,
        affine,
        init,
        axis_name=None,
        dtype=jnp.float32,
        norm=True,
    ):
        self.layout = layout
        self.weight = nnx.Param(initial.pointwise(keys, (channels_in, channels), dtype))
        if norm:
            self.norm = _norm(channels, keys, layout, affine, init, axis_name, dtype)

    def __call__(self, x, *, train):
        return self.norm(self.raw(x), train=train)

    def raw(self, x):
        """Returns the convolution's output, not normalised."""
        return self.layout.pointwise(jax.nn.relu(x), self.weight.get_value())


class FactorizedReduce(nnx.Module):
    """ReLU, two 1x1 convolutions of stride 2, from pixel (0, 0) and from (1, 1), side by side,
    batch norm (as above).
    """

    def __init__(
        self,
        channels_in,
        channels,
        *,
        keys,
        layout,
        affine,
        init,
        axis_name=None,
        dtype=jnp.float32,
        norm=True,
    ):
        self.layout = layout
        halves = (channels - channels // 2, channels // 2)
        self.weight_even = nnx.Param(initial.pointwise(keys, (channels_in, halves[0]), dtype))
        self.weight_odd = nnx.Param(initial.pointwise(keys, (channels_in, halves[1]), dtype))
        if norm:
            self.norm = _norm(channels, keys, layout, affine, init, axis_name, dtype)

    def __call__(self, x, *, train):
        return self.norm(self.raw(x), train=train)

    def raw(self, x):
        """Returns the two convolutions' outputs, not normalised."""
        layout, x = self.layout, jax.nn.relu(x)
        weights = (self.weight_even.get_value(), self.weight_odd.get_value())
        halves = [layout.pointwise(subsample(x, layout, at), w) for at, w in enumerate(weights)]
        return jnp.concatenate(halves, layout.channel)


class _Separable(nnx.Module):
    """ReLU, depthwise k x k, pointwise, batch norm:
    half a separable convolution, or a dilated one.
    """

    def __init__(
        self, channels, k, stride, dilation, *, keys, layout, affine, init, axis_name, dtype
    ):
        self.layout, self.stride, self.dilation = layout, stride, dilation
        self.depthwise = nnx.Param(initial.depthwise(keys, (k, k, channels), init, dtype))
        self.pointwise = nnx.Param(initial.pointwise(keys, (channels, channels), dtype))
        self.norm = _norm(channels, keys, layout, affine, init, axis_name, dtype)

    def __call__(self, x, *, train):
        layout = self.layout
        dw, pw = (w.get_value()[None, None, None] for w in (self.depthwise, self.pointwise))
        filters = layout.fold(dw, pw, x.dtype)
        active = layout.stack([jax.nn.relu(x)])
        z = layout.separable(active, filters, self.stride, self.dilation)
        return self.norm(z.reshape(_without_groups(z.shape, layout)), train=train)


class SepConv(nnx.Module):
    """Two separable halves; the stride is the first one's."""

    def __init__(self, channels, k, stride, **rest):
        self.first = _Separable(channels, k, stride, 1, **rest)
        self.second = _Separable(channels, k, 1, 1, **rest)

    def __call__(self, x, *, train):
        return self.second(self.first(x, train=train), train=train)


class FactorizedConv7(nnx.Module):
    """ReLU, dense 1x7 (stride 1, s), dense 7x1 (stride s, 1), batch norm."""

    def __init__(
        self, channels, stride, *, keys, layout, affine, init, axis_name=None, dtype=jnp.float32
    ):
        self.layout, self.stride = layout, stride
        self.weight_row = nnx.Param(initial.conv(keys, (1, 7, channels, channels), dtype))
        self.weight_column = nnx.Param(initial.conv(keys, (7, 1, channels, channels), dtype))
        self.norm = _norm(channels, keys, layout, affine, init, axis_name, dtype)

    def __call__(self, x, *, train):
        conv, s = self.layout.conv, self.stride
        y = conv(jax.nn.relu(x), self.weight_row.get_value(), (1, s), (0, 3))
        return self.norm(conv(y, self.weight_column.get_value(), (s, 1), (3, 0)), train=train)


def _norm(channels, keys, layout, affine, init, axis_name, dtype):
    return BatchNorm(
        channels,
        layout=layout,
        affine=affine,
        keys=keys,
        init=init,
        axis_name=axis_name,
        dtype=dtype,
    )


def _without_groups(shape, layout):
    """Drops the three group axes (all 1) of a raw separable output."""
    return shape[3:] if layout.channel == -4 else (*shape[:3], shape[-1])


def _skip(channels, stride, **rest):
    return FactorizedReduce(channels, channels, **rest) if stride == 2 else Identity()


def _separable(k):
    return lambda channels, stride, **rest: SepConv(channels, k, stride, **rest)


def _dilated(k):
    return lambda channels, stride, **rest: _Separable(channels, k, stride, 2, **rest)


OPS = {
    "none": lambda channels, stride, *, layout, **_: Zero(stride, layout),
    "max_pool_3x3": lambda channels, stride, *, layout, **_: Pool(max_pool, stride, layout),
    "avg_pool_3x3": lambda channels, stride, *, layout, **_: Pool(avg_pool, stride, layout),
    "skip_connect": _skip,
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "sep_conv_7x7": _separable(7),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
    "conv_7x1_1x7": FactorizedConv7,
}
