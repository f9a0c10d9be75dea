"""Batch normalisation with explicit state: one-pass moments, unbiased running variance, sync
over a mesh axis by option.

Running statistics are values that a module replaces whole (`set_value`); the pure functions of
`pure` hand them out.
With `axis_name` the moments are averaged over that mesh axis (statistics of the whole global
batch).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from darts_dist.nets.maps import widen

EPSILON = 1e-5
MOMENTUM = 0.1


def mean_and_variance(moments, axis_name=None):
    """Returns mean and biased variance from f[2, ...], the means of values and of squares,
    averaged over `axis_name` when given.
    """
    if axis_name is not None:
        moments = lax.pmean(moments, axis_name)
    mean, square = (v[0] for v in lax.split(moments, (1, 1)))
    variance = square - jnp.square(mean)
    # Rounding can leave a tiny negative; `where` keeps the gradient of an exact zero, `maximum`
    # would halve it.
    return mean, jnp.where(variance < 0, jnp.zeros((), variance.dtype), variance)


@jax.custom_jvp
def inverse_deviation(variance):
    """Returns 1 / sqrt(variance + EPSILON); its derivative is made of its value alone."""
    return lax.rsqrt(variance + EPSILON)


@inverse_deviation.defjvp
def _inverse_deviation_jvp(primals, tangents):
    value = inverse_deviation(*primals)
    return value, -0.5 * value * value * value * tangents[0]


def examples_seen(count, axis_name=None):
    """Returns over how many values a moment was taken:
    `count` here, times the size of `axis_name` when given.
    """
    return count * lax.axis_size(axis_name) if axis_name is not None else count


def unbiased(variance, count):
    """Returns a variance over `count` values with the factor count / (count - 1)."""
    return variance * (count / max(count - 1, 1))


class RunningStatistics(nnx.Module):
    """Running mean (0 at first) and variance (1 at first) of any shape;
    momentum 0.1 in PyTorch's sense.
    """

    def __init__(self, shape, dtype=jnp.float32):
        self.mean = nnx.BatchStat(jnp.zeros(shape, dtype))
        self.var = nnx.BatchStat(jnp.ones(shape, dtype))

    def read(self):
        """Returns (mean, variance)."""
        return self.mean.get_value(), self.var.get_value()

    def update(self, mean, variance):
        """Moves the statistics towards a batch's mean and its unbiased variance."""
        old_mean, old_var = self.read()
        self.mean.set_value((1 - MOMENTUM) * old_mean + MOMENTUM * mean.astype(old_mean.dtype))
        self.var.set_value((1 - MOMENTUM) * old_var + MOMENTUM * variance.astype(old_var.dtype))


class BatchNorm(nnx.Module):
    """Normalises one map (no group axes) over batch and pixels;
    `affine` adds a scale and a shift a channel.

    two_pass: for maps of a few pixels, where few values can lie close together far from zero: their
    variance is taken after the mean is subtracted, in a second pass that costs next to nothing.
    """

    def __init__(
        self,
        features,
        *,
        layout,
        affine,
        keys=None,
        init="original",
        axis_name=None,
        dtype=jnp.float32,
        two_pass=False,
    ):
        self.layout, self.affine, self.axis_name = layout, affine, axis_name
        self.two_pass = two_pass
        self.statistics = RunningStatistics((features,), dtype)
        if affine:
            assert keys is not None, "an affine norm draws its scale"
            scale = (
                jax.random.uniform(keys(), (features,), dtype)
                if init == "original"
                else jnp.ones(features, dtype)
            )
            self.scale, self.shift = nnx.Param(scale), nnx.Param(jnp.zeros(features, dtype))

    def __call__(self, x, *, train):
        layout = self.layout
        if train:
            mean, variance = self._mean_and_variance(x)
            count = x.size // x.shape[layout.channel]
            self.statistics.update(mean, unbiased(variance, examples_seen(count, self.axis_name)))
        else:
            mean, variance = self.statistics.read()
        factor = inverse_deviation(variance)
        if self.affine:
            factor = factor * self.scale.get_value()
        y = layout.normalise(x, mean, factor)
        if self.affine:
            y = y + layout.spread(self.shift.get_value())
        return y.astype(x.dtype)

    def _mean_and_variance(self, x):
        layout = self.layout

        def moments(x):
            return layout.moments([layout.stack([x])])[:, 0, 0]

        if not self.two_pass:
            return mean_and_variance(moments(x), self.axis_name)
        # Any constant near the mean will do: the derivative is the same for all of them.
        near = lax.stop_gradient(moments(x)[0])
        if self.axis_name is not None:
            near = lax.pmean(near, self.axis_name)
        rest, variance = mean_and_variance(moments(widen(x) - layout.spread(near)), self.axis_name)
        return near + rest, variance
