"""The search cell: two states preprocessed to one width, then all mixed edges (`edges`)."""

import jax.numpy as jnp
from flax import nnx

from darts_dist.nets.edges import MixedEdges
from darts_dist.nets.norm import (
    RunningStatistics,
    examples_seen,
    inverse_deviation,
    mean_and_variance,
    unbiased,
)
from darts_dist.nets.ops import FactorizedReduce, ReluConvBN


class SearchCell(nnx.Module):
    """Preprocesses two states, applies all mixed edges, and returns the nodes side by side:
    nodes * C channels.
    """

    def __init__(
        self,
        channels_in,
        channels,
        nodes,
        operations,
        *,
        reduction,
        reduction_before,
        keys,
        layout,
        init,
        axis_name,
        dtype,
    ):
        rest = {
            "keys": keys,
            "layout": layout,
            "init": init,
            "axis_name": axis_name,
            "dtype": dtype,
        }
        self.layout, self.axis_name = layout, axis_name
        first = FactorizedReduce if reduction_before else ReluConvBN
        self.before = nnx.List(
            [
                kind(inputs, channels, affine=False, norm=False, **rest)
                for kind, inputs in zip((first, ReluConvBN), channels_in, strict=True)
            ]
        )
        self.statistics = RunningStatistics((2, channels), dtype)
        self.edges = MixedEdges(channels, nodes, operations, reduction=reduction, **rest)

    def __call__(self, states, p, *, train):
        """states: two maps.  p: f[E, K] mixture weights (`rows.arranged`)."""
        layout = self.layout
        raw = layout.stack([op.raw(s) for op, s in zip(self.before, states, strict=True)])
        if train:
            moments = layout.moments([raw])[:, :, 0]
            mean, variance = mean_and_variance(moments, self.axis_name)
            count = examples_seen(raw.size // (2 * raw.shape[layout.channel]), self.axis_name)
            self.statistics.update(mean, unbiased(variance, count))
        else:
            mean, variance = self.statistics.read()
        inputs = layout.normalise(raw, mean, inverse_deviation(variance)).astype(raw.dtype)
        nodes = self.edges(inputs, p, train=train)
        return jnp.concatenate(nodes, layout.channel)
