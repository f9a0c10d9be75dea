"""The two memory layouts of feature maps, and every operation whose fastest form depends on the
layout.

`BatchMinor` (CPU): batch last, so that shifts and matrix products run along contiguous rows;
depthwise convolutions by the bilinear primitives of `depthwise`.  `ChannelsLast` (accelerators): a
depthwise and the pointwise convolution after
it are folded into one dense convolution for the matrix units.  Both compute the same mathematics
from the same parameters; a network is written once over this interface.

A map may carry group axes between batch and channels, written `...` below:

    BatchMinor    f[..., C, H, W, N]        ChannelsLast    f[N, H, W, ..., C]

Letters: N batch, H W pixels, C D channels, S sources (states with the same targets), T targets,
O operations of a kind.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from darts_dist.nets import pools
from darts_dist.nets.depthwise import depthwise


def widen(x):
    """Returns x in float32 when it is narrower:
    sums, statistics and losses are never taken in bfloat16.
    """
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


class BatchMinor:
    """Maps f[..., C, H, W, N]: the layout for CPU."""

    name = "batch_minor"
    space = (-3, -2)
    channel = -4
    batch = -1

    @staticmethod
    def from_images(x):
        """Returns f[C, H, W, N] of images f[N, H, W, C]."""
        return jnp.transpose(x, (3, 1, 2, 0))

    @staticmethod
    def spread(v):
        """Returns per-channel values f[..., C] in a shape that multiplies a map with the same
        group axes.
        """
        return v[..., None, None, None]

    @staticmethod
    def stack(maps):
        """Returns S maps as one with a group axis S."""
        return jnp.stack(maps)

    @staticmethod
    def first(x):
        """Returns the first map of a group axis, and the rest."""
        return x[0], x[1:]

    @staticmethod
    def features(x):
        """Returns the mean over all pixels, f[N, C]."""
        return widen(x).mean((-3, -2)).T

    @staticmethod
    def moments(maps):
        """Returns the means of values and of squares of several maps f[S, (O, T,) C, H, W, N]:
        two f[S, R, C].

        R runs over all group axes but S of the first map, then of the second, and so on.
        Summed over rows of pixels first and over their number after the concatenation: one long
        sum loses three times as many digits, and now and then flips a ReLU.
        """

        def mean(power):
            rows = [power(widen(z)).mean((-2, -1)) for z in maps]  # S, (O, T,) C, H
            return jnp.concatenate(
                [r.reshape(r.shape[0], -1, *r.shape[-2:]) for r in rows], 1
            ).mean(-1)

        return mean(lambda z: z), mean(jnp.square)

    @staticmethod
    def mix(big, small):
        """Returns sum_so (z - m) c + sum_s (x - m) c, f[T, C, H, W, N].

        big: triples (z f[S, O, T, C, H, W, N], m, c f[S, O, T, C]).  small: triples
        (x f[S, C, H, W, N], m, c f[S, T, C]).
        """
        spread = BatchMinor.spread
        terms = [((widen(z) - spread(m)) * spread(c)).sum((0, 1)) for z, m, c in big]
        if small:
            shares = [(widen(x)[:, None] - spread(m)) * spread(c) for x, m, c in small]
            terms.append(functools.reduce(jnp.add, shares).sum(0))
        return sum(terms[1:], start=terms[0])

    @staticmethod
    def pointwise(x, w):
        """Returns the 1x1 convolution of one map f[C, H, W, N] by w f[C, D]."""
        y = w.T.astype(x.dtype) @ x.reshape(x.shape[0], -1)
        return y.reshape(w.shape[1], *x.shape[1:])

    @staticmethod
    def conv(x, w, stride, padding):
        """Returns the convolution of one map by w f[kH, kW, C, D];
        stride and padding are (height, width) pairs.
        """
        kernel = (w.shape[0], w.shape[1])
        padded = jnp.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
        sizes = [
            (size + 2 * pad - side) // step + 1
            for size, pad, side, step in zip(x.shape[1:3], padding, kernel, stride, strict=True)
        ]
        patches = [
            padded[
                :,
                i : i + (sizes[0] - 1) * stride[0] + 1 : stride[0],
                j : j + (sizes[1] - 1) * stride[1] + 1 : stride[1],
            ]
            for i in range(kernel[0])
            for j in range(kernel[1])
        ]
        columns = jnp.stack(patches).reshape(kernel[0] * kernel[1] * x.shape[0], -1)
        y = w.reshape(-1, w.shape[-1]).T.astype(x.dtype) @ columns
        return y.reshape(w.shape[-1], *sizes, x.shape[-1])

    @staticmethod
    def separable(x, dw, pw, stride, dilation):
        """Returns each source's map through O * T depthwise-pointwise pairs, f[S, O, T, D, H',
        W', N].

        x: f[S, C, H, W, N].  dw: f[S, O, T, k, k, C].  pw: f[S, O, T, C, D].
        """
        S, O, T = dw.shape[:3]
        y = depthwise(
            x, dw.reshape(S, O * T, *dw.shape[3:]).astype(x.dtype), stride=stride, dilation=dilation
        )
        return BatchMinor._pointwise_each(y.reshape(S * O * T, *y.shape[2:]), pw)

    @staticmethod
    def separable_each(x, dw, pw):
        """Returns each map through its own pair:
        x f[S, O, T, C, H, W, N], dw f[S, O, T, k, k, C], pw f[S, O, T, C, D].
        """
        count = x.shape[0] * x.shape[1] * x.shape[2]
        w = dw.reshape(count, 1, *dw.shape[3:]).astype(x.dtype)
        y = depthwise(x.reshape(count, *x.shape[3:]), w, stride=1, dilation=1)
        return BatchMinor._pointwise_each(y.reshape(count, *y.shape[2:]), pw)

    @staticmethod
    def _pointwise_each(y, pw):
        C, D = pw.shape[-2:]
        w = pw.reshape(-1, C, D).astype(y.dtype)
        z = lax.dot_general(w, y.reshape(y.shape[0], C, -1), (((1,), (1,)), ((0,), (0,))))
        return z.reshape(*pw.shape[:3], D, *y.shape[-3:])

    @staticmethod
    def pointwise_targets(x, w):
        """Returns 1x1 convolutions of every source for every target:
        f[S, C, ...] by w f[S, T, C, D] -> f[S, 1, T, D, ...].
        """
        S, T, C, D = w.shape
        rows = jnp.swapaxes(w, 2, 3).reshape(S, T * D, C).astype(x.dtype)
        y = lax.dot_general(rows, x.reshape(S, C, -1), (((2,), (1,)), ((0,), (0,))))
        return y.reshape(S, 1, T, D, *x.shape[2:])


class ChannelsLast:
    """Maps f[N, H, W, ..., C]: the layout for accelerators."""

    name = "channels_last"
    space = (1, 2)
    channel = -1
    batch = 0

    @staticmethod
    def from_images(x):
        """Returns images f[N, H, W, C] as they are."""
        return x

    @staticmethod
    def spread(v):
        """Returns per-channel values f[..., C] in a shape that multiplies a map with the same
        group axes.
        """
        return v[None, None, None]

    @staticmethod
    def stack(maps):
        """Returns S maps as one with a group axis S."""
        return jnp.stack(maps, 3)

    @staticmethod
    def first(x):
        """Returns the first map of a group axis, and the rest."""
        return x[..., 0, :], x[..., 1:, :]

    @staticmethod
    def features(x):
        """Returns the mean over all pixels, f[N, C]."""
        return widen(x).mean((1, 2))

    @staticmethod
    def moments(maps):
        """Returns the means of values and of squares of several maps, two f[S, R, C] (see
        BatchMinor.moments).

        Summed over space first and over the batch after the concatenation: one second-stage
        reduction for all.
        """

        def mean(power):
            rows = [power(widen(z)).mean((1, 2)) for z in maps]
            return jnp.concatenate(
                [r.reshape(*r.shape[:2], -1, r.shape[-1]) for r in rows], 2
            ).mean(0)

        return mean(lambda z: z), mean(jnp.square)

    @staticmethod
    def mix(big, small):
        """Returns sum_so (z - m) c + sum_s (x - m) c, f[N, H, W, T, C] (see BatchMinor.mix)."""
        spread = ChannelsLast.spread
        terms = [((widen(z) - spread(m)) * spread(c)).sum((3, 4)) for z, m, c in big]
        if small:
            shares = [(widen(x)[..., None, :] - spread(m)) * spread(c) for x, m, c in small]
            terms.append(functools.reduce(jnp.add, shares).sum(3))
        return sum(terms[1:], start=terms[0])

    @staticmethod
    def pointwise(x, w):
        """Returns the 1x1 convolution of one map f[N, H, W, C] by w f[C, D]."""
        return x @ w.astype(x.dtype)

    @staticmethod
    def conv(x, w, stride, padding, *, dilation=1, groups=1):
        """Returns the convolution of one map by w f[kH, kW, C / groups, D];
        stride, padding: (height, width) pairs.
        """
        return lax.conv_general_dilated(
            x,
            w.astype(x.dtype),
            stride,
            [(p, p) for p in padding],
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    @staticmethod
    def separable(x, dw, pw, stride, dilation):
        """Returns each source's map through O * T depthwise-pointwise pairs, f[N, H', W', S, O,
        T, D].

        x: f[N, H, W, S, C].  dw: f[S, O, T, k, k, C].  pw: f[S, O, T, C, D].  Each pair is one
        dense kernel dw * pw.
        """
        S, O, T, k, _, C = dw.shape
        dense = dw[..., None] * pw[:, :, :, None, None]  # S, O, T, k, k, C, D
        dense = jnp.transpose(dense, (3, 4, 5, 0, 1, 2, 6)).reshape(k, k, C, -1)
        pad = dilation * (k // 2)
        flat = x.reshape(*x.shape[:3], S * C)
        y = ChannelsLast.conv(flat, dense, (stride,) * 2, (pad,) * 2, dilation=dilation, groups=S)
        return y.reshape(*y.shape[:3], S, O, T, -1)

    @staticmethod
    def separable_each(x, dw, pw):
        """Returns each map through its own pair:
        x f[N, H, W, S, O, T, C] (see BatchMinor.separable_each).
        """
        groups = x.shape[3] * x.shape[4] * x.shape[5]
        one = (groups, 1, 1)
        flat = x.reshape(*x.shape[:3], groups, -1)
        y = ChannelsLast.separable(
            flat, dw.reshape(*one, *dw.shape[3:]), pw.reshape(*one, *pw.shape[3:]), 1, 1
        )
        return y.reshape(*y.shape[:3], *x.shape[3:6], -1)

    @staticmethod
    def pointwise_targets(x, w):
        """Returns 1x1 convolutions of every source for every target:
        w f[S, T, C, D] -> f[N, H, W, S, 1, T, D].
        """
        return jnp.einsum("nhwsc,stcd->nhwstd", x, w.astype(x.dtype))[:, :, :, :, None]


LAYOUTS = {"batch_minor": BatchMinor, "channels_last": ChannelsLast}


def default_layout(platform=None):
    """Returns the name of the layout that is fastest on a platform (None: the default backend)."""
    return "batch_minor" if (platform or jax.default_backend()) == "cpu" else "channels_last"


def subsample(x, layout, offset):
    """Returns every second row and column from `offset` on;
    an odd side is padded by zeros for offset 1.
    """
    index = [slice(None)] * x.ndim
    pads = [(0, 0)] * x.ndim
    for axis in layout.space:
        axis %= x.ndim
        index[axis] = slice(offset, None, 2)
        pads[axis] = (0, offset if x.shape[axis] % 2 else 0)
    return jnp.pad(x, pads)[tuple(index)] if any(high for _, high in pads) else x[tuple(index)]


def pixels(x, layout):
    """Returns (height, width) of a map."""
    return tuple(x.shape[axis] for axis in layout.space)


def max_pool(x, layout, stride):
    """Returns the 3x3 max pool of a map (`pools.max_pool`)."""
    return pools.max_pool(x, _from_end(x, layout), stride)


def avg_pool(x, layout, stride):
    """Returns the 3x3 average pool of a map (`pools.avg_pool`)."""
    return pools.avg_pool(x, _from_end(x, layout), stride)


def _from_end(x, layout):
    return tuple(axis % x.ndim - x.ndim for axis in layout.space)
