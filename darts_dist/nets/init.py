"""Initial values by PyTorch's default rules, of version 0.3.1 (`original`) or of today (`modern`).

They differ in two places: 0.3.1 counts all input channels of a grouped convolution in its bound,
and draws the scale of a batch norm uniformly from [0, 1) instead of starting at 1.
"""

import math

import jax
import jax.numpy as jnp


class Keys:
    """A counter over one random key: every call gives another key.
    Lives while a module is built, never after.
    """

    def __init__(self, key):
        self.key, self.count = key, 0

    def __call__(self):
        self.count += 1
        return jax.random.fold_in(self.key, self.count)


def uniform(keys, shape, bound, dtype=jnp.float32):
    """Returns values uniform in (-bound, bound)."""
    return jax.random.uniform(keys(), shape, dtype, -bound, bound)


def conv(keys, shape, dtype=jnp.float32):
    """Returns a dense convolution's weights f[..., kH, kW, C, D], bound 1 / sqrt(C kH kW)."""
    return uniform(keys, shape, 1 / math.sqrt(math.prod(shape[-4:-1])), dtype)


def pointwise(keys, shape, dtype=jnp.float32):
    """Returns 1x1 convolutions f[..., C, D], bound 1 / sqrt(C)."""
    return uniform(keys, shape, 1 / math.sqrt(shape[-2]), dtype)


def depthwise(keys, shape, init, dtype=jnp.float32):
    """Returns depthwise kernels f[..., k, k, C];
    bound 1 / sqrt(C k k) as in 0.3.1 or 1 / k today.
    """
    k, _, channels = shape[-3:]
    return uniform(
        keys, shape, 1 / math.sqrt(k * k * (channels if init == "original" else 1)), dtype
    )
