"""The memory layout for CPU (`layout`): maps f[..., C, H, W, N].

The batch comes last, so that shifts and matrix products run along contiguous rows; depthwise
convolutions by the bilinear primitives of `depthwise`.  Where XLA for CPU would give parts of one
sum a kernel each, they are written as one (`primitives.sum_axes`).

A map may carry group axes in front of the channels, written `...`.  Letters: N batch, H W pixels,
C D channels, S sources (states with the same targets), T targets, O operations of a kind, K all
operations.
"""

import math

import jax.numpy as jnp
from jax import lax

from darts_dist.nets.depthwise import depthwise
from darts_dist.nets.maps import shift, split_sizes, widen
from darts_dist.nets.primitives import pairwise, sum_axes


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
    def apart(x):
        """Returns x, computed by a kernel of its own and so once, its cotangent too: XLA on CPU
        would repeat a long one in every kernel that takes it.
        """
        return lax.optimization_barrier(x)

    @staticmethod
    def unstack(x):
        """Returns the maps of a group axis."""
        return [own[0] for own in lax.split(x, (1,) * x.shape[0])]

    @staticmethod
    def features(x):
        """Returns the mean over all pixels, f[N, C]."""
        return widen(x).mean((-3, -2)).T

    @staticmethod
    def moments(maps):
        """Returns the means of values and of squares of several maps f[S, (T, O,) C, H, W, N]:
        f[2, S, R, C].

        R runs over all group axes but S of the first map, then of the second, and so on.
        Summed pair by pair over up to 8 parts of the examples, then over rows of pixels, and over
        their number after the concatenation: one long sum loses three times as many digits, and
        now and then flips a ReLU.
        """

        def row_means(x):
            parts = math.gcd(x.shape[-1], 8)
            whole = sum_axes(x.reshape(*x.shape[:-1], parts, -1), (x.ndim - 1,))
            return whole.mean((-2, -1)) / parts

        def rows(power):
            means = [row_means(power(widen(z))) for z in maps]  # S, (T, O,) C, H
            return jnp.concatenate([r.reshape(r.shape[0], -1, *r.shape[-2:]) for r in means], 1)

        return jnp.stack([rows(lambda z: z), rows(jnp.square)]).mean(-1)

    @staticmethod
    def has_targets(x):
        """Whether a map has the group axes S, T, O, not S alone."""
        return x.ndim > 5

    @staticmethod
    def normalise(x, mean, factor):
        """Returns (x - mean) * factor, both per channel f[..., C].

        The mean first: near the kink of a ReLU that difference is exact, in float32 too.
        """
        return (widen(x) - BatchMinor.spread(mean)) * BatchMinor.spread(factor)

    @staticmethod
    def mix(maps, sizes, mean, factor):
        """Returns the sum over sources and operations of (z - mean) * factor, f[T, C, H, W, N].

        maps: f[S, T, O, C, H, W, N], or f[S, C, H, W, N] for all targets.  sizes: how many of the
        K operations each map has.  mean, factor: f[S, T, K, C].
        """
        terms = [BatchMinor.spread(shift(mean, factor))]
        mean = lax.stop_gradient(mean)
        for z, m, c in zip(maps, *(split_sizes(v, sizes) for v in (mean, factor)), strict=True):
            if BatchMinor.has_targets(z):
                terms.append(sum_axes(BatchMinor.normalise(z, m, c), (0, 2)))
            else:
                terms.append(
                    sum_axes(BatchMinor.normalise(z[:, None], m[:, :, 0], c[:, :, 0]), (0,))
                )
        return pairwise(terms)

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
    def fold(dw, pw, dtype):
        """Returns what `separable` takes of depthwise f[..., k, k, C] and pointwise f[..., C, D]
        weights: arrays with the same leading axes.
        """
        return dw.astype(dtype), pw.astype(dtype)

    @staticmethod
    def pick(filters, rows, margin):
        """Returns those rows of the second axis, without a margin of the kernel that is zero."""
        dw, pw = filters
        inside = slice(margin, dw.shape[-2] - margin)
        return dw[:, rows, inside, inside], pw[:, rows]

    @staticmethod
    def separable(x, filters, stride, dilation):
        """Returns each source's map f[S, C, H, W, N] through T * O depthwise-pointwise pairs
        (`fold`, leading axes S, T, O), f[S, T, O, D, H', W', N].
        """
        dw, pw = filters
        S, T, O = dw.shape[:3]
        y = depthwise(x, dw.reshape(S, T * O, *dw.shape[3:]), stride=stride, dilation=dilation)
        return BatchMinor._pointwise_each(y.reshape(S * T * O, *y.shape[2:]), pw)

    @staticmethod
    def separable_each(x, filters):
        """Returns each map f[S, T, O, C, H, W, N] through its own pair."""
        dw, pw = filters
        count = x.shape[0] * x.shape[1] * x.shape[2]
        w = dw.reshape(count, 1, *dw.shape[3:])
        y = depthwise(x.reshape(count, *x.shape[3:]), w, stride=1, dilation=1)
        return BatchMinor._pointwise_each(y.reshape(count, *y.shape[2:]), pw)

    @staticmethod
    def _pointwise_each(y, pw):
        C, D = pw.shape[-2:]
        w = pw.reshape(-1, C, D)
        z = lax.dot_general(w, y.reshape(y.shape[0], C, -1), (((1,), (1,)), ((0,), (0,))))
        return z.reshape(*pw.shape[:3], D, *y.shape[-3:])

    @staticmethod
    def pointwise_targets(x, w):
        """Returns 1x1 convolutions of every source for every target:
        f[S, C, ...] by w f[S, T, C, D] -> f[S, T, 1, D, ...].
        """
        S, T, C, D = w.shape
        rows = jnp.swapaxes(w, 2, 3).reshape(S, T * D, C).astype(x.dtype)
        y = lax.dot_general(rows, x.reshape(S, C, -1), (((2,), (1,)), ((0,), (0,))))
        return y.reshape(S, T, 1, D, *x.shape[2:])
