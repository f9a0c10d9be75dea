"""What both memory layouts of feature maps share (`layout`): widening, and the small terms of a
mixture.

Letters: S sources, T targets, K operations, C channels.
"""

import jax
import jax.numpy as jnp
from jax import lax


def widen(x):
    """Returns x in float32 when it is narrower:
    sums, statistics and losses are never taken in bfloat16.
    """
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


@jax.custom_jvp
def _from_here(x):
    """Returns x minus its value here: zeros, with the derivative of x."""
    return jnp.zeros_like(x)


@_from_here.defjvp
def _from_here_jvp(primals, tangents):
    return _from_here(*primals), tangents[0]


@jax.custom_jvp
def shift(mean, factor):
    """The sum over S and K of -factor * `_from_here`(mean), f[..., T, C], known to be zero.

    By it the derivative of what depends on a mean comes in where the mean is subtracted as a
    constant, which costs no pass over the maps.
    """
    return jnp.zeros_like((factor * mean)[..., 0, :, 0, :])


@shift.defjvp
def _shift_jvp(primals, tangents):
    (mean, factor), (mean_t, factor_t) = primals, tangents
    moved = factor * mean_t + factor_t * _from_here(mean)
    return shift(mean, factor), -moved.sum((-4, -2))


def split_sizes(v, sizes):
    """Returns the parts of f[..., K, C]."""
    return lax.split(v, tuple(sizes), v.ndim - 2)
