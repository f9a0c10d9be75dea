"""The memory layout for accelerators (`layout`): maps f[N, H, W, ..., C].

A depthwise and the pointwise convolution after it are folded into one dense convolution for the
matrix units.  Sums over pixels keep the examples apart, and those of several maps then share one
sum over the batch.

A map may carry group axes between pixels and channels, written `...`.  Letters: N batch, H W
pixels, C D channels, S sources (states with the same targets), T targets, O operations of a kind,
K all operations.
"""

import functools

import jax.numpy as jnp
from jax import lax

from darts_dist.nets.maps import shift, widen
from darts_dist.nets.primitives import repeat


def _joined(parts, axis):
    """Returns a concatenation as a sum of padded parts: XLA for GPUs fuses that with a reduction
    after it, and gives a concatenation a kernel.
    """
    count, start, total = sum(x.shape[axis] for x in parts), 0, []
    for x in parts:
        pads = [(0, 0)] * x.ndim
        pads[axis] = (start, count - start - x.shape[axis])
        start += x.shape[axis]
        total.append(jnp.pad(x, pads))
    return functools.reduce(jnp.add, total)


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
    def apart(x):
        """Returns x; what is computed apart is left to XLA (see BatchMinor.apart)."""
        return x

    @staticmethod
    def unstack(x):
        """Returns the maps of a group axis."""
        return [own[..., 0, :] for own in lax.split(x, (1,) * x.shape[-2], x.ndim - 2)]

    @staticmethod
    def features(x):
        """Returns the mean over all pixels, f[N, C]."""
        return widen(x).mean((1, 2))

    @staticmethod
    def moments(maps):
        """Returns the means of values and of squares of several maps, f[2, S, R, C] (see
        BatchMinor.moments).

        Summed over space first and over the batch after the concatenation: one second-stage
        reduction for all.
        """

        def rows(power):
            means = [power(widen(z)).mean((1, 2)) for z in maps]  # N, S, (T, O,) C
            return _joined([r.reshape(*r.shape[:2], -1, r.shape[-1]) for r in means], 2)

        return _joined([rows(lambda z: z)[None], rows(jnp.square)[None]], 0).mean(1)

    @staticmethod
    def has_targets(x):
        """Whether a map has the group axes S, T, O, not S alone."""
        return x.ndim > 5

    @staticmethod
    def _each(mean, factor, batch):
        """Returns per-channel values once for each example, f[N, 1, 1, ..., C]: in the derivative
        the sums over pixels of several maps then share one sum over the batch.
        """
        both = repeat(jnp.stack([mean, factor]), batch)
        return both[:, None, None, 0], both[:, None, None, 1]

    @staticmethod
    def normalise(x, mean, factor):
        """Returns (x - mean) * factor, both per channel (see BatchMinor.normalise)."""
        mean, factor = ChannelsLast._each(mean, factor, x.shape[0])
        return (widen(x) - mean) * factor

    @staticmethod
    def mix(maps, sizes, mean, factor):
        """Returns the sum over sources and operations of (z - mean) * factor, f[N, H, W, T, C]
        (see BatchMinor.mix).
        """
        each, factor = ChannelsLast._each(mean, factor, maps[0].shape[0])
        constant, total, start = lax.stop_gradient(each), shift(mean[None, None, None], factor), 0
        for z, size in zip(maps, sizes, strict=True):
            m, c = (v[..., start : start + size, :] for v in (constant, factor))
            if ChannelsLast.has_targets(z):
                total = total + ((z - m) * c).sum((3, 5))
            else:
                total = total + ((z[..., None, :] - m[..., 0, :]) * c[..., 0, :]).sum(3)
            start += size
        return total

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
    def fold(dw, pw, dtype):
        """Returns each depthwise f[..., k, k, C] and pointwise f[..., C, D] pair as one dense
        kernel f[..., D, k, k, C].
        """
        dense = dw[..., None, :, :, :] * jnp.swapaxes(pw, -1, -2)[..., None, None, :]
        return dense.astype(dtype)

    @staticmethod
    def pick(filters, rows, margin):
        """Returns some rows without a margin (see BatchMinor.pick)."""
        inside = slice(margin, filters.shape[-2] - margin)
        return filters[:, rows, :, inside, inside]

    @staticmethod
    def separable(x, filters, stride, dilation):
        """Returns each source's map f[N, H, W, S, C] through T * O pairs f[S, T, O, D, k, k, C],
        f[N, H', W', S, T, O, D].
        """
        S, T, O, D, k, _, C = filters.shape
        y = lax.conv_general_dilated(
            x.reshape(*x.shape[:3], S * C),
            filters.reshape(-1, k, k, C),
            (stride,) * 2,
            [(dilation * (k // 2),) * 2] * 2,
            rhs_dilation=(dilation,) * 2,
            dimension_numbers=("NHWC", "OHWI", "NHWC"),
            feature_group_count=S,
        )
        return y.reshape(*y.shape[:3], S, T, O, D)

    @staticmethod
    def separable_each(x, filters):
        """Returns each map f[N, H, W, S, T, O, C] through its own pair."""
        groups = x.shape[3] * x.shape[4] * x.shape[5]
        flat = x.reshape(*x.shape[:3], groups, -1)
        y = ChannelsLast.separable(flat, filters.reshape(groups, 1, 1, *filters.shape[3:]), 1, 1)
        return y.reshape(*y.shape[:3], *x.shape[3:6], -1)

    @staticmethod
    def pointwise_targets(x, w):
        """Returns 1x1 convolutions of every source for every target:
        w f[S, T, C, D] -> f[N, H, W, S, T, 1, D].
        """
        return jnp.einsum("nhwsc,stcd->nhwstd", x, w.astype(x.dtype))[..., None, :]
