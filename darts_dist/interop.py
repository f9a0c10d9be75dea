"""Names and layouts of the original PyTorch networks, into this package's trees and back.

One description (`Entry`s) says for every tensor of the original where it lies here; importing,
exporting and the names of gradients follow from it. Numpy only: it reads no files and builds no
network.

The original keeps one tensor an edge, edges by node; here the edges of a cell are rows of one
array, by source (`nets.edges`).  Letters: C D channels in and out, k filter side, E edges, R batch
norms an edge.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from darts_dist.errors import CheckpointError
from darts_dist.nets.rows import (
    POOLS,
    depthwise_place,
    edge_order,
    is_separable,
    kernel_size,
    norm_rows,
)
from darts_dist.nets.supernet import STEM_MULTIPLIER, is_reduction

Tree = dict[Any, Any]
PARAMS, STATS = 0, 1
COUNTER = ".num_batches_tracked"  # later PyTorch counts batches; nothing here does
SHOWN = 3  # names of each kind that an error lists

# kind -> (to this package's layout, back)
KINDS = {
    "conv": (lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)),
    "depthwise": (lambda w: w[:, 0].transpose(1, 2, 0), lambda w: w.transpose(2, 0, 1)[:, None]),
    "pointwise": (lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None]),
    "linear": (lambda w: w.T, lambda w: w.T),
    "vector": (lambda v: v, lambda v: v),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the original and its place here.

    name, shape: the original's.  tree: PARAMS or STATS.  path: keys down to a leaf.  rows: index
    into the leaf's leading axes, () for all of it.  kind: a key of KINDS.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    path: tuple[Any, ...]
    rows: tuple[int, ...] = ()
    tree: int = PARAMS


def from_torch(state: Mapping[str, np.ndarray], entries: Iterable[Entry]) -> tuple[Tree, Tree]:
    """Returns (params, stats) of a state dict; dtypes stay.

    Raises CheckpointError that lists names which are missing, too many or of another shape.
    """
    entries = list(entries)
    names = {entry.name for entry in entries}
    given = {name: np.shape(value) for name, value in state.items() if not name.endswith(COUNTER)}
    faults = (
        [f"{e.name} is missing" for e in entries if e.name not in given],
        [f"{name} is not part of this network" for name in given if name not in names],
        [
            f"{e.name} has the shape {given[e.name]}, wanted {e.shape}"
            for e in entries
            if given.get(e.name, e.shape) != e.shape
        ],
    )
    if any(faults):
        shown = [one for kind in faults for one in kind[:SHOWN]]
        more = sum(map(len, faults)) - len(shown)
        rest = f"; and {more} more" if more else ""
        raise CheckpointError(f"the weights do not fit: {'; '.join(shown)}{rest}")
    leaves: dict[tuple, dict[tuple, np.ndarray]] = {}
    for e in entries:
        value = KINDS[e.kind][0](np.asarray(state[e.name]))
        leaves.setdefault((e.tree, *e.path), {})[e.rows] = value
    trees: tuple[Tree, Tree] = ({}, {})
    for (tree, *path), rows in leaves.items():
        branch = trees[tree]
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = _join(rows)
    return trees


def to_torch(params: Tree | None, stats: Tree | None, entries: Iterable[Entry]) -> dict:
    """Returns names -> arrays of the original, in its order; a tree that is None is left out.

    Gradients and momentum buffers have the structure of `params` and go the same way.
    """
    trees, out = (params, stats), {}
    for e in entries:
        leaf: Any = trees[e.tree]
        if leaf is not None:
            for key in e.path:
                leaf = leaf[key]
            out[e.name] = KINDS[e.kind][1](np.asarray(leaf)[e.rows])
    return out


def _join(rows: dict[tuple, np.ndarray]) -> np.ndarray:
    """Returns one leaf of its rows; all rows of a leaf are always there."""
    if () in rows:
        return np.ascontiguousarray(rows[()])
    sizes = np.max(list(rows), axis=0) + 1
    first = next(iter(rows.values()))
    leaf = np.empty((*sizes, *first.shape), first.dtype)
    for at, value in rows.items():
        leaf[at] = value
    return leaf


def check_ranks(state: Mapping[str, np.ndarray], ranks: Mapping[str, int], what: str) -> None:
    """Raises CheckpointError where a tensor that sizes follow from is missing or has other axes."""
    for name, rank in ranks.items():
        if np.ndim(state.get(name, ())) != rank:
            raise CheckpointError(f"{name} is missing or has not {rank} axes; no weights of {what}")


def search_from_torch(
    state: Mapping[str, np.ndarray],
    *,
    nodes: int,
    operations: Sequence[str],
    layers: int,
    statistics: bool = True,
) -> tuple[Tree, Tree]:
    """Returns (params, stats) of `nets.supernet.Supernet` from the original's search network.

    statistics: False where `state` has no running statistics (momentum buffers); stats is then {}.
    Width, image channels and classes follow from the stem and the classifier.  Raises
    CheckpointError (`from_torch`).
    """
    check_ranks(state, {"stem.0.weight": 4, "classifier.weight": 2}, "a search network")
    width, channels_in = state["stem.0.weight"].shape[:2]
    sizes = {
        "channels": width // STEM_MULTIPLIER,
        "channels_in": channels_in,
        "classes": state["classifier.weight"].shape[0],
    }
    entries = search_entries(**sizes, nodes=nodes, operations=operations, layers=layers)
    return from_torch(state, (e for e in entries if statistics or e.tree == PARAMS))


def search_to_torch(
    params: Tree, stats: Tree | None = None, *, nodes: int, operations: Sequence[str], layers: int
) -> dict:
    """Returns names -> arrays of the original's search network, in its order.

    params: the parameters, or gradients or buffers of the same structure.  stats: None leaves
    running statistics out.
    """
    channels_in, width = params["stem"]["weight"].shape[-2:]
    sizes = {
        "channels": width // STEM_MULTIPLIER,
        "channels_in": channels_in,
        "classes": params["classifier_bias"].shape[0],
    }
    entries = search_entries(**sizes, nodes=nodes, operations=operations, layers=layers)
    return to_torch(params, stats, entries)


def search_entries(
    *,
    channels: int,
    channels_in: int,
    classes: int,
    nodes: int,
    operations: Sequence[str],
    layers: int,
) -> Iterator[Entry]:
    """Yields the search network's entries in the original's order (CIFAR stem)."""
    stem = STEM_MULTIPLIER * channels
    yield Entry("stem.0.weight", (stem, channels_in, 3, 3), "conv", ("stem", "weight"))
    yield from norm_entries("stem.1", ("stem", "norm"), stem, affine=True)
    edges = [(node, source) for node in range(nodes) for source in range(2 + node)]
    by_source = np.argsort(edge_order(nodes))  # node-major number -> row here
    inputs, width, before = (stem, stem), channels, False
    for cell in range(layers):
        reduction = is_reduction(cell, layers)
        width *= 2 if reduction else 1
        name, path = f"cells.{cell}.", ("cells", cell)
        yield from _preprocessing(name, path, 0, inputs[0], width, before)
        yield from _preprocessing(name, path, 1, inputs[1], width, False)
        for edge, (_, source) in enumerate(edges):
            for k in range(len(operations)):
                yield from edge_entries(
                    operations,
                    k,
                    stride=2 if reduction and source < 2 else 1,
                    channels=width,
                    row=int(by_source[edge]),
                    prefix=f"{name}_ops.{edge}._ops.{k}.",
                    path=(*path, "edges"),
                )
        inputs, before = (inputs[1], nodes * width), reduction
    head = (classes, inputs[1])
    yield Entry("classifier.weight", head, "linear", ("classifier_weight",))
    yield Entry("classifier.bias", head[:1], "vector", ("classifier_bias",))


def _preprocessing(name, path, which, channels_in, channels, reduces):
    """Yields the entries of a cell's preprocessing; both norms of a cell lie in one array here."""
    operation = "factorized_reduce" if reduces else "relu_conv_bn"
    for part in _parts(operation, 1, channels_in, channels):
        label = f"{name}preprocess{which}.{part.name}"
        if part.role == "norm":
            yield from norm_entries(label, path, channels, rows=(which,))
        else:
            yield Entry(
                f"{label}.weight", part.shape, part.kind, (*path, "before", which, part.role)
            )


def edge_entries(
    operations: Sequence[str],
    k: int,
    *,
    stride: int,
    channels: int,
    row: int,
    prefix: str = "",
    path: tuple = (),
) -> Iterator[Entry]:
    """Yields operation k of one edge of `nets.edges.MixedEdges`; row: its source-major row."""
    operation = operations[k]
    if operation in POOLS:
        parts = [_Part("1", "norm")]  # in the mixture alone a pool has a norm
    else:
        parts = _parts(operation, stride, channels, channels)
    for part in parts:
        label = prefix + part.name
        if operation == "skip_connect":
            inner, rows = (*path, "skip"), (row,)
        elif part.role == "depthwise":
            k, place = depthwise_place(operations, operation, part.half)
            inner, rows = (*path, f"depthwise_{k}"), (row, place)
        else:  # of a norm or of a pointwise convolution
            inner, rows = path, (row, norm_rows(operations).index((operation, part.half)))
        if part.role == "norm":
            yield from norm_entries(label, inner, channels, rows=rows)
        else:
            leaf = () if part.role == "depthwise" else (part.role,)
            yield Entry(f"{label}.weight", part.shape, part.kind, (*inner, *leaf), rows)


def operation_entries(
    operation: str,
    *,
    stride: int,
    channels: int,
    affine: bool,
    channels_in: int = 0,
    prefix: str = "",
    path: tuple = (),
) -> Iterator[Entry]:
    """Yields one module's entries: of `nets.ops.OPS`, "relu_conv_bn" or "factorized_reduce".

    channels_in: 0 means as many as `channels`.  Pools, identity and zero have none.
    """
    for part in _parts(operation, stride, channels_in or channels, channels):
        inner = (*path, ("first", "second")[part.half]) if is_separable(operation) else path
        if part.role == "norm":
            yield from norm_entries(prefix + part.name, (*inner, "norm"), channels, affine=affine)
        else:
            yield Entry(f"{prefix}{part.name}.weight", part.shape, part.kind, (*inner, part.role))


@dataclasses.dataclass(frozen=True)
class _Part:
    """A convolution or a norm of an operation: its number there, its role here, its half."""

    name: str
    role: str
    half: int = 0
    kind: str = ""
    shape: tuple[int, ...] = ()


def _parts(operation: str, stride: int, channels_in: int, channels: int) -> Iterator[_Part]:
    """Yields the parts of an operation, in the original's order."""
    if operation.startswith(("sep_conv", "dil_conv")):
        k = kernel_size(operation)
        for half in range(2 if is_separable(operation) else 1):
            at = 1 + 4 * half
            yield _Part(f"op.{at}", "depthwise", half, "depthwise", (channels, 1, k, k))
            square = (channels, channels, 1, 1)
            yield _Part(f"op.{at + 1}", "pointwise", half, "pointwise", square)
            yield _Part(f"op.{at + 2}", "norm", half)
    elif operation == "factorized_reduce" or (operation == "skip_connect" and stride == 2):
        for name, role, width in (
            ("conv_1", "weight_even", channels - channels // 2),
            ("conv_2", "weight_odd", channels // 2),
        ):
            yield _Part(name, role, 0, "pointwise", (width, channels_in, 1, 1))
        yield _Part("bn", "norm")
    elif operation == "relu_conv_bn":
        yield _Part("op.1", "weight", 0, "pointwise", (channels, channels_in, 1, 1))
        yield _Part("op.2", "norm")
    elif operation == "conv_7x1_1x7":
        yield _Part("1", "weight_row", 0, "conv", (channels, channels, 1, 7))
        yield _Part("2", "weight_column", 0, "conv", (channels, channels, 7, 1))
        yield _Part("3", "norm")


def norm_entries(name, path, channels, *, affine=False, rows=()) -> Iterator[Entry]:
    """Yields the entries of a batch norm, of `nets.norm.BatchNorm` or a row of statistics."""
    size = (channels,)
    if affine:
        yield Entry(f"{name}.weight", size, "vector", (*path, "scale"), rows)
        yield Entry(f"{name}.bias", size, "vector", (*path, "shift"), rows)
    for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
        yield Entry(f"{name}.{theirs}", size, "vector", (*path, "statistics", ours), rows, STATS)
