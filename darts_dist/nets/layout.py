"""The two memory layouts of feature maps, and every operation whose fastest form depends on the
layout.

`BatchMinor` is for CPU, `ChannelsLast` for accelerators.  Both compute the same mathematics from
the same parameters; a network is written once over this interface.

A map may carry group axes between batch and channels, written `...` below:

    BatchMinor    f[..., C, H, W, N]        ChannelsLast    f[N, H, W, ..., C]

Letters: N batch, H W pixels, C D channels, S sources (states with the same targets), T targets,
O operations of a kind.
"""

import jax
import jax.numpy as jnp

from darts_dist.nets import pools
from darts_dist.nets.batch_minor import BatchMinor
from darts_dist.nets.channels_last import ChannelsLast

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
