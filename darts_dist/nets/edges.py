"""The mixed edges of a search cell: all operations at once, computed source by source in few
kernels.

A state feeds all later nodes, so whatever depends on the source alone is done once a source: ReLU,
pools, identity. The convolutions of one kind on all edges that leave a source are one call, their
batch norms one reduction, and the sum over operations is one contraction over the raw outputs z:
sum_k c_k (z_k - mean_k)  with  c_k = p_k / std_k.  No normalised tensor is stored at the end of an
edge.

Edges are kept source-major (`Level`s: groups of states that feed the same nodes), so that a
level's parameters are one contiguous slice; `edge_order` maps them to the paper's node-major rows.
Batch norms have no scale and shift.

Letters: S sources and T targets of a level, E edges, O operations of a kind, R batch norms an
edge, C channels.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from darts_dist.nets import init as initial
from darts_dist.nets.layout import avg_pool, max_pool, subsample, widen
from darts_dist.nets.norm import (
    EPSILON,
    RunningStatistics,
    examples_seen,
    mean_and_variance,
    unbiased,
)

POOLS = {"max_pool_3x3": max_pool, "avg_pool_3x3": avg_pool}


@dataclasses.dataclass(frozen=True)
class Level:
    """States that feed the same nodes, and where their edges lie among the source-major rows."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    start: int

    @property
    def stop(self):
        """One past the level's last row."""
        return self.start + len(self.sources) * len(self.targets)

    def rows(self, x):
        """Returns a level's part of x [E, ...] as [S, T, ...]."""
        return x[self.start : self.stop].reshape(len(self.sources), len(self.targets), *x.shape[1:])


def levels(nodes):
    """Returns the levels of a cell:
    the two inputs together, then every node but the last by itself.
    """
    out = [Level((0, 1), tuple(range(nodes)), 0)]
    for node in range(1, nodes):
        out.append(Level((node + 1,), tuple(range(node, nodes)), out[-1].stop))
    return tuple(out)


def edge_order(nodes):
    """Returns, for each source-major row, its node-major row (the paper's and the alphas'
    order): int[E].
    """
    first = np.cumsum([0] + [2 + node for node in range(nodes)])
    return np.array(
        [first[t] + s for level in levels(nodes) for s in level.sources for t in level.targets]
    )


def kernel_size(operation):
    """Returns k of an operation's name, `sep_conv_3x3` -> 3."""
    return int(operation.rsplit("x", 1)[1])


def is_separable(operation):
    """Whether an operation is a separable convolution (two halves)."""
    return operation.startswith("sep_conv")


def norm_rows(operations):
    """Returns the names of an edge's batch norms in the order of their running statistics:
    [(operation, which)].

    First halves of separable convolutions, their second halves, dilated convolutions, pools;
    which counts from 0.
    """
    sep = [o for o in operations if is_separable(o)]
    dilated = [o for o in operations if o.startswith("dil_conv")]
    pools = [o for o in operations if o in POOLS]
    return [(o, 0) for o in sep] + [(o, 1) for o in sep] + [(o, 0) for o in (*dilated, *pools)]


class _EdgeConv(nnx.Module):
    """Depthwise-pointwise weights of one operation on all edges:
    one pair, or two for separable convolutions.
    """

    def __init__(self, edges, channels, operation, *, keys, init, dtype):
        k = kernel_size(operation)
        for half in range(2 if is_separable(operation) else 1):
            dw = initial.depthwise(keys, (edges, k, k, channels), init, dtype)
            pw = initial.pointwise(keys, (edges, channels, channels), dtype)
            setattr(self, f"depthwise_{half}", nnx.Param(dw))
            setattr(self, f"pointwise_{half}", nnx.Param(pw))

    def depthwise(self, half):
        """Returns f[E, k, k, C]."""
        return getattr(self, f"depthwise_{half}").get_value()

    def pointwise(self, half):
        """Returns f[E, C, C]."""
        return getattr(self, f"pointwise_{half}").get_value()


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
        self.pools = tuple(o for o in operations if o in POOLS)
        edges = self.levels[-1].stop
        self.convs = nnx.Dict(
            {
                o: _EdgeConv(edges, channels, o, keys=keys, init=init, dtype=dtype)
                for o in self.sep + self.dilated
            }
        )
        if reduction and "skip_connect" in operations:
            self.skip = _EdgeReduce(self.levels[0].stop, channels, keys=keys, dtype=dtype)
        if norm_rows(operations):
            shape = (edges, len(norm_rows(operations)), channels)
            self.statistics = RunningStatistics(shape, dtype)

    def __call__(self, inputs, p, *, train):
        """Returns the node states, oldest first.

        inputs: the two preprocessed states as one map with group axis S = 2.
        p: f[E, K] mixture weights, rows source-major, columns in the order of `operations`.
        """
        sums, states, seen = None, [], []
        for level in self.levels:
            h = inputs if level.start == 0 else self.layout.stack(states[-1:])
            out, statistics = self._level(level, h, level.rows(p), train)
            seen.append(statistics)
            sums = out if sums is None else sums + out
            node, sums = self.layout.first(sums)
            states.append(node.astype(inputs.dtype))
        if train:
            self._update(seen)
        return states

    def _level(self, level, h, p, train):
        """Returns the sums over a level's edges (group axis T) and its batch norms' [(mean,
        variance)] f[S, T, R, C].

        h: map with group axis S.  p: f[S, T, K].
        """
        layout, (S, T) = self.layout, p.shape[:2]
        outer = level.start == 0
        stride = 2 if self.reduction and outer else 1
        reduces = outer and hasattr(self, "skip")
        running = [jnp.zeros((S, T, 0, h.shape[layout.channel]), p.dtype)] * 2
        if hasattr(self, "statistics"):
            running = [level.rows(v) for v in self.statistics.read()]
        inner, final = zip(*(jnp.split(v, [len(self.sep)], 2) for v in running), strict=True)
        active = jax.nn.relu(h)
        names, raw, seen = [], [], []
        if reduces:
            names, raw = ["skip_connect"], [self._reduced(level, active)]
            own = [level.rows(v)[:, :, None] for v in self.skip.statistics.read()]
            final = [jnp.concatenate(pair, 2) for pair in zip(own, final, strict=True)]
        if self.sep:
            z = layout.separable(active, *self._weights(level, self.sep, 0), stride, 1)
            mean, variance = self._moments([z], [], T, inner, train)
            seen.append((mean, variance))
            factor = jax.lax.rsqrt(variance + EPSILON)
            # The mean first: near the ReLU's kink that difference is exact, in float32 too.
            y = (widen(z) - layout.spread(mean)) * layout.spread(factor)
            y = jax.nn.relu(y).astype(h.dtype)
            raw.append(layout.separable_each(y, *self._weights(level, self.sep, 1)))
        if self.dilated:
            raw.append(layout.separable(active, *self._weights(level, self.dilated, 0), stride, 2))
        names += [*self.sep, *self.dilated, *self.pools]
        pooled = [POOLS[o](h, layout, stride) for o in self.pools]
        big, small, constant = [], [], 0.0
        if names:
            mean, variance = self._moments(raw, pooled, T, final, train)
            seen.append((mean, variance))
            weights = jnp.stack([p[:, :, self.operations.index(o)] for o in names], 1)
            factor = weights[..., None] * jax.lax.rsqrt(variance + EPSILON)  # S, K, T, C
            # The mean is subtracted as a constant, which costs no pass over the maps in the
            # derivative; what depends on it comes in by a term that is zero.
            fixed = jax.lax.stop_gradient(mean)
            constant = layout.spread((factor * (mean - fixed)).sum((0, 1)))
            sizes = [1] * reduces + [len(names) for names in (self.sep, self.dilated) if names]
            means, factors = (jnp.split(v, np.cumsum(sizes), 1) for v in (fixed, factor))
            big = list(zip(raw, means[:-1], factors[:-1], strict=True))
            small = [(x, means[-1][:, i], factors[-1][:, i]) for i, x in enumerate(pooled)]
        if stride == 1 and "skip_connect" in self.operations:
            share = p[:, :, self.operations.index("skip_connect"), None]
            share = jnp.broadcast_to(share, (S, T, h.shape[layout.channel]))
            small.append((h, jnp.zeros_like(share), share))
        if not big and not small:  # nothing but `none` on these edges
            zero = jnp.zeros((S, T, h.shape[layout.channel]), p.dtype)
            small.append((subsample(h, layout, 0) if stride == 2 else h, zero, zero))
        out = layout.mix(big, small) - constant
        count = examples_seen(out.size // (T * out.shape[layout.channel]), self.axis_name)
        return out, [
            (jnp.swapaxes(m, 1, 2), jnp.swapaxes(unbiased(v, count), 1, 2)) for m, v in seen
        ]

    def _weights(self, level, names, half):
        """Depthwise f[S, O, T, k, k, C] and pointwise f[S, O, T, C, C] weights;
        smaller kernels are padded to the largest.
        """
        convs = [self.convs[o] for o in names]
        largest = max(kernel_size(o) for o in names)
        depthwise = []
        for o, conv in zip(names, convs, strict=True):
            margin = ((largest - kernel_size(o)) // 2,) * 2
            w = level.rows(conv.depthwise(half))
            depthwise.append(jnp.pad(w, ((0, 0), (0, 0), margin, margin, (0, 0))))
        pointwise = [level.rows(conv.pointwise(half)) for conv in convs]
        return jnp.stack(depthwise, 1), jnp.stack(pointwise, 1)

    def _reduced(self, level, active):
        """Factorized reductions of both inputs for every target, raw."""
        halves = [
            self.layout.pointwise_targets(
                subsample(active, self.layout, at), level.rows(w.get_value())
            )
            for at, w in enumerate((self.skip.weight_even, self.skip.weight_odd))
        ]
        return jnp.concatenate(halves, self.layout.channel)

    def _moments(self, raw, pooled, targets, running, train):
        """Mean and variance of raw maps (groups S, O, T), then pooled maps (group S): f[S, K, T,
        C], K operations.

        Of this batch in training; from `running` f[S, T, K, C] otherwise.
        """
        if not train:
            return [jnp.swapaxes(v, 1, 2) for v in running]
        moments = mean_and_variance(self.layout.moments([*raw, *pooled]), self.axis_name)

        def arrange(v):  # S, R, C
            S, R, C = v.shape
            convs, pools = jnp.split(v, [R - len(pooled)], 1)
            pools = jnp.broadcast_to(pools[:, :, None], (S, len(pooled), targets, C))
            return jnp.concatenate(
                [convs.reshape(S, convs.shape[1] // targets, targets, C), pools], 1
            )

        return [arrange(v) for v in moments]

    def _update(self, seen):
        """Moves the running statistics; seen:
        for each level the pairs of `_level`, f[S, T, R, C].
        """
        if not seen[0]:
            return
        if hasattr(self, "skip"):
            *inner, final = seen[0]
            own, final = zip(*(jnp.split(v, [1], 2) for v in final), strict=True)
            seen = [[*inner, final], *seen[1:]]
            self.skip.statistics.update(*(v.reshape(-1, v.shape[-1]) for v in own))
        if not hasattr(self, "statistics"):
            return
        rows = []
        for which in (0, 1):
            whole = [jnp.concatenate([pair[which] for pair in pairs], 2) for pairs in seen]
            rows.append(jnp.concatenate([v.reshape(-1, *v.shape[2:]) for v in whole]))
        self.statistics.update(*rows)
