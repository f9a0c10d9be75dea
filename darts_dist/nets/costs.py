"""What networks cost: multiply-adds of operations, cells and whole networks, for one picture.

Place: layer 1. Plain sizes in, numbers out: nothing is built, and parameters are left to the tree
that holds them. Counted are the multiplications by weights of convolutions and linear layers, each
with its addition as one, at every pixel of the output and with padding. Pooling, norms, ReLU,
mixture weights, biases and sums count nothing. This is what the literature calls mult-adds
(arXiv 1704.04861, 1707.07012). The kernels that run may multiply more: `nets.layout` folds
convolutions together, or takes them apart, as it is fastest.

A map is (height, width, channels) here.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from darts_dist.genotype import CnnGenotype
from darts_dist.nets.network import cell_specs
from darts_dist.nets.rows import is_separable, kernel_size
from darts_dist.nets.supernet import STEM_MULTIPLIER, is_reduction

Map = tuple[int, int, int]
WITHOUT_WEIGHTS = ("none", "max_pool_3x3", "avg_pool_3x3")


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a network: its kind, the maps it gets and gives, and its multiply-adds."""

    kind: str
    inputs: tuple[Map, ...]
    output: Map
    multiply_adds: int


def strided(size: Map, stride: int) -> Map:
    """Returns the map after a stride: each side divided, rounded up."""
    return -(-size[0] // stride), -(-size[1] // stride), size[2]


def convolution(kernel: Sequence[int], channels_in: int, output: Map) -> int:
    """Returns the multiply-adds of a dense convolution; kernel (1, 1) of a pointwise one."""
    return math.prod(kernel) * channels_in * math.prod(output)


def operation(name: str, size: Map, stride: int) -> int:
    """Returns the multiply-adds of a candidate, by its name in `nets.ops.OPS`, on a map.

    stride: 1 or 2.  A skip connection of stride 2 is a factorized reduction: two pointwise
    convolutions, each to half of the channels.
    """
    channels, output = size[2], strided(size, stride)
    if name in WITHOUT_WEIGHTS or (name == "skip_connect" and stride == 1):
        return 0
    pointwise = convolution((1, 1), channels, output)
    if name == "skip_connect":
        return pointwise
    if name == "conv_7x1_1x7":
        between = (size[0], output[1], channels)
        return convolution((1, 7), channels, between) + convolution((7, 1), channels, output)
    depthwise = kernel_size(name) ** 2 * math.prod(output)
    return (2 if is_separable(name) else 1) * (depthwise + pointwise)


def first(stem: str, channels: int, picture: Map) -> Part:
    """Returns the stem "cifar" or "imagenet" of a network whose first cells have `channels`."""
    if stem == "cifar":
        output = (*picture[:2], STEM_MULTIPLIER * channels)
        return Part("stem", (picture,), output, convolution((3, 3), picture[2], output))
    size, total = picture, 0
    for width in (max(channels // 2, 1), channels, channels):
        before, size = size[2], (*strided(size, 2)[:2], width)
        total += convolution((3, 3), before, size)
    return Part("stem", (picture,), size, total)


def cell(
    inputs: tuple[Map, Map],
    channels: int,
    operations: Iterable[tuple[str, int]],
    concat: int,
    *,
    reduction: bool,
) -> Part:
    """Returns a cell with these operations: (name, source), sources 0 and 1 its two inputs.

    concat: how many nodes it gives side by side.  Both inputs are brought to `channels` and to the
    second one's sides first, the first by a factorized reduction where it is larger; either way
    that is as many multiply-adds as one pointwise convolution to the smaller map.
    """
    outer = (*inputs[1][:2], channels)
    inner = strided(outer, 2 if reduction else 1)
    total = sum(convolution((1, 1), one[2], outer) for one in inputs)
    for name, source in operations:
        reduces = reduction and source < 2
        total += operation(name, outer if source < 2 else inner, 2 if reduces else 1)
    kind = "reduction" if reduction else "normal"
    return Part(kind, inputs, (*inner[:2], concat * channels), total)


def classifier(size: Map, classes: int) -> Part:
    """Returns the linear layer after the mean over all pixels of a map."""
    return Part("classifier", (size,), (1, 1, classes), size[2] * classes)


def supernet(
    picture: Map,
    *,
    stem: str,
    channels: int,
    layers: int,
    nodes: int,
    classes: int,
    operations: Sequence[str],
) -> list[Part]:
    """Returns the parts of the search network (`nets.supernet`): stem, cells, classifier."""
    every = [(name, source) for n in range(nodes) for source in range(2 + n) for name in operations]
    cells = []
    for layer in range(layers):
        channels_now = channels * 2 ** sum(is_reduction(one, layers) for one in range(layer + 1))
        cells.append((channels_now, every, nodes, is_reduction(layer, layers)))
    return _network(picture, stem, channels, cells, classes)


def network(
    picture: Map,
    genotype: CnnGenotype,
    *,
    stem: str,
    channels: int,
    layers: int,
    classes: int,
) -> list[Part]:
    """Returns the parts of a genotype's network (`nets.network`): stem, cells, classifier.

    The auxiliary head is not among them: it is left out when the network is used.
    """
    cells = [
        (spec.channels, spec.entries, len(spec.concat), spec.reduction)
        for spec in cell_specs(genotype, stem=stem, channels=channels, layers=layers)
    ]
    return _network(picture, stem, channels, cells, classes)


def _network(picture, stem, channels, cells, classes):
    parts = [first(stem, channels, picture)]
    last = parts[0].output
    before = last
    if stem == "imagenet":  # the first cell gets the map before the stem's last convolution, too
        before = (*strided(strided(picture, 2), 2)[:2], channels)
    for width, operations, concat, reduction in cells:
        parts.append(cell((before, last), width, operations, concat, reduction=reduction))
        before, last = last, parts[-1].output
    return [*parts, classifier(last, classes)]
