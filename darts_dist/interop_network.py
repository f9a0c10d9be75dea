"""Names and layouts of the original's networks of one genotype, into this package's trees and back.

The entries of `interop` for `nets.network.Network`: the same tensors on both sides, one for one.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from darts_dist.genotype import CnnGenotype
from darts_dist.interop import (
    PARAMS,
    Entry,
    Tree,
    check_ranks,
    from_torch,
    norm_entries,
    operation_entries,
    to_torch,
)
from darts_dist.nets.network import AUXILIARY_WIDTHS, auxiliary_cell, cell_specs
from darts_dist.nets.supernet import STEM_MULTIPLIER

AUXILIARY = "auxiliary_head."


def network_from_torch(
    state: Mapping[str, np.ndarray],
    *,
    genotype: CnnGenotype,
    stem: str,
    layers: int,
    statistics: bool = True,
) -> tuple[Tree, Tree]:
    """Returns (params, stats) of `nets.network.Network` from a state dict of the original's.

    With the tree "auxiliary" when the state has an auxiliary head.  stem: "cifar" or "imagenet".
    statistics: False where `state` has no running statistics (momentum buffers); stats is then {}.
    Raises CheckpointError that lists names which are missing, too many or of another shape.
    """
    first, wide = {
        "cifar": ("stem.0.weight", "stem.0.weight"),
        "imagenet": ("stem0.0.weight", "stem0.3.weight"),
    }[stem]
    what = f"a network with the stem {stem!r}"
    check_ranks(state, {first: 4, wide: 4, "classifier.weight": 2}, what)
    entries = network_entries(
        genotype=genotype,
        stem=stem,
        channels=state[wide].shape[0] // (STEM_MULTIPLIER if stem == "cifar" else 1),
        channels_in=state[first].shape[1],
        layers=layers,
        classes=state["classifier.weight"].shape[0],
        auxiliary=any(name.startswith(AUXILIARY) for name in state),
    )
    return from_torch(state, (e for e in entries if statistics or e.tree == PARAMS))


def network_to_torch(
    params: Tree, stats: Tree | None = None, *, genotype: CnnGenotype, stem: str, layers: int
) -> dict:
    """Returns names -> arrays of the original's network, in its order.

    params: the parameters, or gradients or buffers of the same structure.  stats: None leaves
    running statistics out.
    """
    if stem == "cifar":
        channels_in, width = params["stem"]["weight"].shape[-2:]
        width //= STEM_MULTIPLIER
    else:
        weights = params["stem"]["weights"]
        channels_in, width = weights[0].shape[-2], weights[2].shape[-1]
    entries = network_entries(
        genotype=genotype,
        stem=stem,
        channels=width,
        channels_in=channels_in,
        layers=layers,
        classes=params["classifier"]["bias"].shape[0],
        auxiliary="auxiliary" in params,
    )
    return to_torch(params, stats, entries)


def network_entries(
    *,
    genotype: CnnGenotype,
    stem: str,
    channels: int,
    channels_in: int,
    layers: int,
    classes: int,
    auxiliary: bool,
) -> Iterator[Entry]:
    """Yields the entries of NetworkCIFAR or NetworkImageNet in the original's order."""
    yield from _stem(stem, channels_in, channels)
    specs = cell_specs(genotype, stem=stem, channels=channels, layers=layers)
    for cell, spec in enumerate(specs):
        kinds = zip(spec.preprocessing, spec.channels_in, strict=True)
        for which, (kind, inputs) in enumerate(kinds):
            yield from operation_entries(
                kind,
                stride=1,
                channels_in=inputs,
                channels=spec.channels,
                affine=True,
                prefix=f"cells.{cell}.preprocess{which}.",
                path=("cells", cell, "before", which),
            )
        for n, (operation, _) in enumerate(spec.entries):
            yield from operation_entries(
                operation,
                stride=spec.stride(n),
                channels=spec.channels,
                affine=True,
                prefix=f"cells.{cell}._ops.{n}.",
                path=("cells", cell, "operations", n),
            )
    if auxiliary:
        yield from _auxiliary(stem, specs[auxiliary_cell(layers)].channels_out, classes)
    yield from _classifier("classifier", ("classifier",), specs[-1].channels_out, classes)


def _stem(stem, channels_in, channels):
    if stem == "cifar":
        width = STEM_MULTIPLIER * channels
        yield Entry("stem.0.weight", (width, channels_in, 3, 3), "conv", ("stem", "weight"))
        yield from norm_entries("stem.1", ("stem", "norm"), width, affine=True)
        return
    half = max(channels // 2, 1)
    sizes = ((channels_in, half), (half, channels), (channels, channels))
    labels = (("stem0.0", "stem0.1"), ("stem0.3", "stem0.4"), ("stem1.1", "stem1.2"))
    for at, ((inputs, outputs), (conv, norm)) in enumerate(zip(sizes, labels, strict=True)):
        shape = (outputs, inputs, 3, 3)
        yield Entry(f"{conv}.weight", shape, "conv", ("stem", "weights", at))
        yield from norm_entries(norm, ("stem", "norms", at), outputs, affine=True)


def _auxiliary(stem, channels, classes):
    inner, outer = AUXILIARY_WIDTHS
    name, path = f"{AUXILIARY}features", "auxiliary"
    yield Entry(f"{name}.2.weight", (inner, channels, 1, 1), "pointwise", (path, "pointwise"))
    yield from norm_entries(f"{name}.3", (path, "norm"), inner, affine=True)
    yield Entry(f"{name}.5.weight", (outer, inner, 2, 2), "conv", (path, "conv"))
    if stem == "cifar":
        yield from norm_entries(f"{name}.6", (path, "last_norm"), outer, affine=True)
    yield from _classifier(f"{AUXILIARY}classifier", (path, "classifier"), outer, classes)


def _classifier(name, path, features, classes):
    yield Entry(f"{name}.weight", (classes, features), "linear", (*path, "weight"))
    yield Entry(f"{name}.bias", (classes,), "vector", (*path, "bias"))
