"""The cell of a genotype: two states preprocessed to one width, then two operations a node.

A `CellSpec` says what a cell of a network is made of; the module, the names of the original's
tensors and the paths that may be dropped all follow from it. Source: arXiv 1806.09055.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from darts_dist.nets.drop_path import drop
from darts_dist.nets.ops import OPS, FactorizedReduce, ReluConvBN


@dataclasses.dataclass(frozen=True)
class CellSpec:
    """A cell in its place in the network.

    entries: (operation, state) pairs, two a node.  concat: states that make the output, in order.
    channels_in: of the two inputs.  channels: of every state.  reduction: halves the map.
    reduction_before: the first input is twice as large as the second.
    """

    entries: tuple[tuple[str, int], ...]
    concat: tuple[int, ...]
    channels_in: tuple[int, int]
    channels: int
    reduction: bool
    reduction_before: bool

    @property
    def channels_out(self):
        """Channels of the output."""
        return len(self.concat) * self.channels

    @property
    def preprocessing(self):
        """Names of what brings the two inputs to one width and size."""
        return "factorized_reduce" if self.reduction_before else "relu_conv_bn", "relu_conv_bn"

    def stride(self, operation):
        """Stride of an operation, by its number."""
        return 2 if self.reduction and self.entries[operation][1] < 2 else 1

    @property
    def paths(self):
        """Numbers of the operations that drop-path may leave out: all but identities."""
        return tuple(
            n
            for n, (name, _) in enumerate(self.entries)
            if name != "skip_connect" or self.stride(n) == 2
        )


PREPROCESSING = {"factorized_reduce": FactorizedReduce, "relu_conv_bn": ReluConvBN}


class FixedCell(nnx.Module):
    """Applies a spec's operations to two states and returns the states of its concat side by side.

    Batch norms have a scale and a shift; pools have no norm.
    """

    def __init__(self, spec, **rest):
        self.spec, self.layout = spec, rest["layout"]
        self.before = nnx.List(
            [
                PREPROCESSING[name](channels_in, spec.channels, affine=True, **rest)
                for name, channels_in in zip(spec.preprocessing, spec.channels_in, strict=True)
            ]
        )
        self.operations = nnx.List(
            [
                OPS[name](spec.channels, spec.stride(n), affine=True, **rest)
                for n, (name, _) in enumerate(spec.entries)
            ]
        )

    def __call__(self, states, factors, *, train):
        """states: two maps.  factors: f[N, P] of `drop_path`, a column for each of `spec.paths`, or
        None.
        """
        spec = self.spec
        states = [op(s, train=train) for op, s in zip(self.before, states, strict=True)]

        def output(n):
            out = self.operations[n](states[spec.entries[n][1]], train=train)
            if factors is None or n not in spec.paths:
                return out
            return drop(out, factors[:, spec.paths.index(n)], self.layout)

        for n in range(0, len(spec.entries), 2):
            states.append(output(n) + output(n + 1))
        return jnp.concatenate([states[s] for s in spec.concat], self.layout.channel)
