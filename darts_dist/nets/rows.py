"""The order of a search cell's edges and of what belongs to them: rows of weights, of running
statistics and of mixture weights.

Edges are kept source-major (`Level`s: groups of states that feed the same nodes), so that a
level's parameters are one contiguous slice; `edge_order` maps them to the paper's node-major rows.
Letters: S sources and T targets of a level, E edges, K operations.
"""

import dataclasses

import numpy as np

from darts_dist.nets.primitives import pick

POOLS = ("max_pool_3x3", "avg_pool_3x3")


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


def arranged(p, operations):
    """Returns mixture weights f[E, K] of node-major rows as `edges.MixedEdges` takes them: rows
    source-major, columns of `norm_rows`' order, `skip_connect` last, and none of `none`.
    """
    nodes = int(((4 * 2 * len(p) + 9) ** 0.5 - 3) // 2)  # of E = nodes * (nodes + 3) / 2 edges
    names = [o for o, half in norm_rows(operations) if not half]
    names += [o for o in operations if o == "skip_connect"]
    return pick(p, edge_order(nodes).tolist(), [operations.index(o) for o in names])


def kernel_size(operation):
    """Returns k of an operation's name, `sep_conv_3x3` -> 3."""
    return int(operation.rsplit("x", 1)[1])


def is_separable(operation):
    """Whether an operation is a separable convolution (two halves)."""
    return operation.startswith("sep_conv")


def conv_rows(operations):
    """Returns the depthwise-pointwise pairs of an edge in the order of their weights:
    [(operation, half)].

    First halves of separable convolutions, their second halves, dilated convolutions.
    """
    sep = [o for o in operations if is_separable(o)]
    dilated = [o for o in operations if o.startswith("dil_conv")]
    return [(o, 0) for o in sep] + [(o, 1) for o in sep] + [(o, 0) for o in dilated]


def norm_rows(operations):
    """Returns the names of an edge's batch norms in the order of their running statistics:
    those of `conv_rows`, then the pools'.
    """
    return conv_rows(operations) + [(o, 0) for o in operations if o in POOLS]


def depthwise_place(operations, operation, half):
    """Returns (k, place): a pair's depthwise weights lie at [:, place] of those of side k."""
    k = kernel_size(operation)
    return k, [row for row in conv_rows(operations) if kernel_size(row[0]) == k].index(
        (operation, half)
    )
