"""The mixed edges of a search cell: all operations at once, computed source by source in few
kernels.

A state feeds all later nodes, so whatever depends on the source alone is done once a source: ReLU,
pools, identity. The convolutions of one kind on all edges that leave a source are one call, their
batch norms one reduction, and the sum over operations is one contraction over the raw outputs z:
sum_k c_k (z_k - mean_k)  with  c_k = p_k / std_k.  No normalised tensor is stored at the end of an
edge.

Edges are kept source-major, level by level (`rows`).
Batch norms have no scale and shift.

Letters: S sources and T targets of a level, E edges, O operations of a kind, R batch norms an
edge, C channels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from darts_dist.nets import init as initial
from darts_dist.nets.layout import avg_pool, max_pool, subsample
from darts_dist.nets.maps import widen
from darts_dist.nets.norm import (
    RunningStatistics,
    examples_seen,
    inverse_deviation,
    mean_and_variance,
    unbiased,
)
from darts_dist.nets.primitives import pairwise
from darts_dist.nets.rows import (
    conv_rows,
    depthwise_place,
    is_separable,
    kernel_size,
    levels,
    norm_rows,
)

_POOL = {"max_pool_3x3": max_pool, "avg_pool_3x3": avg_pool}


class _EdgeReduce(nnx.Module):
    """Factorized reductions of all edges from the two inputs (skip connections of a reduction
    cell).
    """

    def __init__(self, edges, channels, *, keys, dtype):
        halves = (channels - channels // 2, channels // 2)
        self.weight_even = nnx.Param(initial.pointwise(keys, (edges, channels, halves[0]), dtype))
        self.weight_odd = nnx.Param(initial.pointwise(keys, (edges, channels, halves[1]), dtype))
        self.statistics = RunningStatistics((edges, channels), dtype)


class MixedEdges(nnx.Module):
    """All mixed operations of a cell, level by level."""

    def __init__(
        self, channels, nodes, operations, *, reduction, keys, layout, init, axis_name=None, dtype
    ):
        self.operations, self.levels, self.reduction = tuple(operations), levels(nodes), reduction
        self.layout, self.axis_name = layout, axis_name
        self.sep = tuple(o for o in operations if is_separable(o))
        self.dilated = tuple(o for o in operations if o.startswith("dil_conv"))
        self.pools = tuple(o for o in operations if o in _POOL)
        edges, convs = self.levels[-1].stop, conv_rows(operations)
        sides = [kernel_size(o) for o, _ in convs]
        for k in sorted(set(sides)):
            shape = (edges, sides.count(k), k, k, channels)
            setattr(self, f"depthwise_{k}", nnx.Param(initial.depthwise(keys, shape, init, dtype)))
        if convs:
            shape = (edges, len(convs), channels, channels)
            self.pointwise = nnx.Param(initial.pointwise(keys, shape, dtype))
        if reduction and "skip_connect" in operations:
            self.skip = _EdgeReduce(self.levels[0].stop, channels, keys=keys, dtype=dtype)
        if norm_rows(operations):
            shape = (edges, len(norm_rows(operations)), channels)
            self.statistics = RunningStatistics(shape, dtype)

    def __call__(self, inputs, p, *, train):
        """Returns the node states, oldest first.

        inputs: the two preprocessed states as one map with group axis S = 2.
        p: f[E, K] mixture weights, rows and columns as in `arranged`.
        """
        states, seen, filters = [], [], self._filters(inputs.dtype)
        # Each channel its own before the levels take theirs: one sum over channels in the
        # derivative, not one a level.
        p = jnp.broadcast_to(p[..., None], (*p.shape, inputs.shape[self.layout.channel]))
        shares = [[] for _ in self.levels]  # of each node, by level
        for level in self.levels:
            h = inputs if level.start == 0 else self.layout.stack(states[-1:])
            h = self.layout.apart(h)
            own = jax.tree.map(level.rows, filters)
            out, statistics = self._level(level, h, level.rows(p), own, train)
            seen.append(statistics)
            for node, share in zip(level.targets, self.layout.unstack(out), strict=True):
                shares[node].append(share)
            states.append(pairwise(shares[len(states)]).astype(inputs.dtype))
        if train:
            self._update(seen)
        return states

    def _filters(self, dtype):
        """The weights of first halves, second halves and dilated convolutions, as the layout
        takes them, rows f[E, O, ...].  Smaller kernels are padded to the largest.
        """
        convs = conv_rows(self.operations)
        if not convs:
            return None, None, None
        largest = max(kernel_size(o) for o, _ in convs)
        padded = {}
        for k in {kernel_size(o) for o, _ in convs}:
            margin = ((largest - k) // 2,) * 2
            w = getattr(self, f"depthwise_{k}").get_value()
            padded[k] = jnp.pad(w, ((0, 0), (0, 0), margin, margin, (0, 0)))
        places = [depthwise_place(self.operations, *row) for row in convs]
        depthwise = jnp.concatenate([padded[k][:, at : at + 1] for k, at in places], 1)
        every = self.layout.fold(depthwise, self.pointwise.get_value(), dtype)
        kinds, start = [], 0
        for names in (self.sep, self.sep, self.dilated):
            rows = slice(start, start + len(names))
            margin = (largest - max(map(kernel_size, names), default=largest)) // 2
            kinds.append(self.layout.pick(every, rows, margin) if names else None)
            start = rows.stop
        return tuple(kinds)

    def _level(self, level, h, p, filters, train):
        """Returns the sums over a level's edges (group axis T) and its batch norms' [(mean,
        variance)] f[S, T, R, C].

        h: map with group axis S.  p: f[S, T, K, C].  filters: of `_filters`, rows f[S, T, O, ...].
        """
        layout, (S, T) = self.layout, p.shape[:2]
        channels = h.shape[layout.channel]
        outer = level.start == 0
        stride = 2 if self.reduction and outer else 1
        running = [jnp.zeros((S, T, 0, channels), p.dtype)] * 2
        if hasattr(self, "statistics"):
            running = [level.rows(v) for v in self.statistics.read()]
        inner, final = zip(*(jnp.split(v, [len(self.sep)], 2) for v in running), strict=True)
        active = jax.nn.relu(h)
        maps, seen = [], []  # maps: in the order of p's columns
        if self.sep:
            z = widen(layout.separable(active, filters[0], stride, 1))
            mean, variance = self._moments([z], [len(self.sep)], inner, train)
            seen.append((mean, variance))
            y = layout.normalise(z, mean, inverse_deviation(variance))
            y = jax.nn.relu(y).astype(h.dtype)
            maps.append(widen(layout.separable_each(y, filters[1])))
        if self.dilated:
            maps.append(widen(layout.separable(active, filters[2], stride, 2)))
        maps += [widen(_POOL[o](h, layout, stride)) for o in self.pools]
        sizes = [len(kind) for kind in (self.sep, self.dilated) if kind] + [1] * len(self.pools)
        skips = "skip_connect" in self.operations
        if skips and stride == 2:
            maps.append(widen(self._reduced(level, active)))
            sizes.append(1)
            own = [level.rows(v)[:, :, None] for v in self.skip.statistics.read()]
            final = [jnp.concatenate(pair, 2) for pair in zip(final, own, strict=True)]
        mean = factor = jnp.zeros((S, T, 0, channels), p.dtype)
        if maps:
            mean, variance = self._moments(maps, sizes, final, train)
            seen.append((mean, variance))
            factor = inverse_deviation(variance)
        if skips and stride == 1:  # the state itself
            maps.append(widen(h))
            sizes.append(1)
            one = jnp.ones((S, T, 1, channels), p.dtype)
            mean = jnp.concatenate([mean, jnp.zeros_like(one)], 2)
            factor = jnp.concatenate([factor, one], 2)
        if maps:
            out = layout.mix(maps, sizes, mean, p * factor)
        else:  # nothing but `none` on these edges
            nothing = subsample(h, layout, 0) if stride == 2 else h
            zero = jnp.zeros((S, T, 1, channels), p.dtype)
            out = layout.mix([widen(nothing)], [1], zero, zero)
        count = examples_seen(out.size // (T * channels), self.axis_name)
        return out, [(mean, unbiased(variance, count)) for mean, variance in seen]

    def _reduced(self, level, active):
        """Factorized reductions of both inputs for every target, raw."""
        halves = [
            self.layout.pointwise_targets(
                subsample(active, self.layout, at), level.rows(w.get_value())
            )
            for at, w in enumerate((self.skip.weight_even, self.skip.weight_odd))
        ]
        return jnp.concatenate(halves, self.layout.channel)

    def _moments(self, maps, sizes, running, train):
        """Mean and variance of maps with groups S, T, O or S alone, f[S, T, K, C];
        sizes: how many of the K operations each map has.

        Of this batch in training; `running`, of the same shape, otherwise.
        """
        if not train:
            return running
        moments = self.layout.moments(maps)  # 2, S, R, C
        S, T, _, C = running[0].shape
        counts = zip(maps, sizes, strict=True)
        rows = [T * size if self.layout.has_targets(x) else 1 for x, size in counts]
        parts = [
            jnp.broadcast_to(v.reshape(2, S, -1, size, C), (2, S, T, size, C))
            for v, size in zip(jnp.split(moments, np.cumsum(rows)[:-1], 2), sizes, strict=True)
        ]
        return mean_and_variance(jnp.concatenate(parts, 3), self.axis_name)

    def _update(self, seen):
        """Moves the running statistics; seen:
        for each level the pairs of `_level`, f[S, T, R, C].
        """
        if not seen[0]:
            return
        if hasattr(self, "skip"):
            *inner, final = seen[0]
            final, own = zip(*((v[:, :, :-1], v[:, :, -1:]) for v in final), strict=True)
            seen = [[*inner, final], *seen[1:]]
            self.skip.statistics.update(*(v.reshape(-1, v.shape[-1]) for v in own))
        if not hasattr(self, "statistics"):
            return
        rows = []
        for which in (0, 1):
            whole = [jnp.concatenate([pair[which] for pair in pairs], 2) for pairs in seen]
            rows.append(jnp.concatenate([v.reshape(-1, *v.shape[2:]) for v in whole]))
        self.statistics.update(*rows)
