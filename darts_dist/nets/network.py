"""The network of one genotype: a stem, its cells, pooling and a linear classifier, and in training
an auxiliary head (arXiv 1806.09055, section 3).

Drop-path comes in as factors of the call (`drop_path`); the loss is the caller's business.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from darts_dist.errors import ConfigError
from darts_dist.nets import init as initial
from darts_dist.nets.fixed_cell import CellSpec, FixedCell
from darts_dist.nets.init import Keys
from darts_dist.nets.layout import LAYOUTS, default_layout, pixels
from darts_dist.nets.maps import widen
from darts_dist.nets.norm import BatchNorm
from darts_dist.nets.pure import remat
from darts_dist.nets.supernet import STEM_MULTIPLIER, STEMS, is_reduction

AUXILIARY_WIDTHS = (128, 768)
POOL_PX = 7  # side of the window that the original's ImageNet network pools


def cell_specs(genotype, *, stem, channels, layers):
    """Returns the CellSpecs of a network, first to last.

    genotype: `genotype.CnnGenotype`.  stem: "cifar" or "imagenet".  channels: width of the first
    cell, doubled at each reduction.
    """
    specs = []
    inputs = (channels * (STEM_MULTIPLIER if stem == "cifar" else 1),) * 2
    before = stem == "imagenet"
    for cell in range(layers):
        reduction = is_reduction(cell, layers)
        channels *= 2 if reduction else 1
        entries, concat = (
            (genotype.reduce, genotype.reduce_concat)
            if reduction
            else (genotype.normal, genotype.normal_concat)
        )
        spec = CellSpec(entries, concat, inputs, channels, reduction, before)
        specs.append(spec)
        inputs, before = (inputs[1], spec.channels_out), reduction
    return tuple(specs)


def drop_paths(genotype, *, layers):
    """Returns what the columns of drop-path's factors stand for: (cell, operation) pairs."""
    specs = cell_specs(genotype, stem="cifar", channels=1, layers=layers)
    return tuple((cell, path) for cell, spec in enumerate(specs) for path in spec.paths)


def auxiliary_cell(layers):
    """Returns the number of the cell whose output the auxiliary head sees: the second reduction."""
    return 2 * layers // 3


class AuxiliaryHead(nnx.Module):
    """ReLU, average pool to 2x2, convolutions to 128 (1x1) and to 768 (2x2), a linear classifier.

    Windows are 5x5 as the original's, of stride 3 (cifar: 8x8 pixels) or 2 (imagenet: 7x7), and
    smaller on smaller maps; what larger maps leave after the convolutions is averaged. With the
    ImageNet stem no norm follows the second convolution.
    """

    def __init__(self, channels, classes, *, stem, keys, layout, init, axis_name, dtype):
        self.layout, self.stride = layout, {"cifar": 3, "imagenet": 2}[stem]
        inner, outer = AUXILIARY_WIDTHS
        rest = {"layout": layout, "affine": True, "keys": keys, "init": init}
        rest |= {"axis_name": axis_name, "dtype": dtype, "two_pass": True}
        self.pointwise = nnx.Param(initial.pointwise(keys, (channels, inner), dtype))
        self.norm = BatchNorm(inner, **rest)
        self.conv = nnx.Param(initial.conv(keys, (2, 2, inner, outer), dtype))
        if stem == "cifar":
            self.last_norm = BatchNorm(outer, **rest)
        self.classifier = Classifier(outer, classes, keys=keys, dtype=dtype)

    def __call__(self, x, *, train):
        layout = self.layout
        x = jax.nn.relu(x)
        for axis in layout.space:
            x = window_means(x, axis % x.ndim, 5, self.stride)
        x = self.norm(layout.pointwise(x, self.pointwise.get_value()), train=train)
        x = layout.conv(jax.nn.relu(x), self.conv.get_value(), (1, 1), (0, 0))
        if hasattr(self, "last_norm"):
            x = self.last_norm(x, train=train)
        return self.classifier(layout.features(jax.nn.relu(x)))


def window_means(x, axis, window, stride):
    """Returns the means over windows along one axis, without padding, of at least two windows.

    Where the axis is too short for two windows, they share it out.  Raises ConfigError when it is
    shorter than two.
    """
    size = x.shape[axis]
    if size < 2:
        raise ConfigError(
            "the auxiliary head needs a map of at least 2x2 pixels, found one of side "
            f"{size}; take larger images or leave the head out"
        )
    if size < window + stride:
        window, stride = (size + 1) // 2, size // 2
    first = np.arange(0, size - window + 1, stride)[:, None]
    at = np.arange(size)[None]
    share = ((at >= first) & (at < first + window)) / window
    means = jnp.tensordot(x, jnp.asarray(share, x.dtype), ((axis,), (1,)))
    return jnp.moveaxis(means, -1, axis)


class Classifier(nnx.Module):
    """Logits of features f[N, C], in at least float32."""

    def __init__(self, features, classes, *, keys, dtype):
        self.weight = nnx.Param(initial.pointwise(keys, (features, classes), dtype))
        self.bias = nnx.Param(initial.uniform(keys, (classes,), features**-0.5, dtype))

    def __call__(self, features):
        return features @ widen(self.weight.get_value()) + self.bias.get_value()[None]


class Network(nnx.Module):
    """Logits of images by the network of a genotype, and those of the auxiliary head.

    genotype, stem, channels, layers: see `cell_specs`.  auxiliary: with the head, used in training
    only.  original: the original's classifier in two respects: with the ImageNet stem it sees the
    mean of the first 7x7 pixels, not of all; and where the auxiliary head reads the last cell
    (layers <= 3), that head's ReLU reaches it too, in training.
    init: "original" or "modern" (`init`).  layout: a name in LAYOUTS or None for the backend's
    best.  axis_name: mesh axis over which batch statistics are averaged, or None.
    remat: recompute each cell in the backward pass instead of storing its activations.
    """

    def __init__(
        self,
        key,
        *,
        genotype,
        channels,
        layers,
        classes,
        channels_in,
        stem="cifar",
        auxiliary=False,
        original=False,
        init="original",
        layout=None,
        axis_name=None,
        remat=False,
        dtype=jnp.float32,
    ):
        keys = Keys(key)
        self.layout, self.remat = LAYOUTS[layout or default_layout()], remat
        self.window = POOL_PX if original and stem == "imagenet" else 0
        rest = {
            "keys": keys,
            "layout": self.layout,
            "init": init,
            "axis_name": axis_name,
            "dtype": dtype,
        }
        self.stem = STEMS[stem](channels_in, channels, **rest)
        specs = cell_specs(genotype, stem=stem, channels=channels, layers=layers)
        self.cells = nnx.List([FixedCell(spec, **rest) for spec in specs])
        self.auxiliary_cell = auxiliary_cell(layers)
        self.shares_relu = original and self.auxiliary_cell == layers - 1
        if auxiliary:
            width = specs[self.auxiliary_cell].channels_out
            self.auxiliary = AuxiliaryHead(width, classes, stem=stem, **rest)
        self.classifier = Classifier(specs[-1].channels_out, classes, keys=keys, dtype=dtype)

    def __call__(self, images, factors=None, *, train):
        """Returns (logits, logits of the auxiliary head): f[N, classes] each, of at least float32.

        The second is None without the head and when not training.
        images: f[N, H, W, channels_in].  factors: f[N, P] of `drop_path` for the P `drop_paths`, or
        None to drop none.
        train: normalise by batch statistics and move the running ones; otherwise use the running
        ones.
        """
        states = self.stem(self.layout.from_images(images), train=train)
        columns = [None] * len(self.cells)
        if factors is not None:
            ends = np.cumsum([len(cell.spec.paths) for cell in self.cells])
            assert factors.shape[1:] == (ends[-1],), "a factor for each path"
            columns = jnp.split(factors, ends[:-1], 1)
        auxiliary = None
        for number, (cell, own) in enumerate(zip(self.cells, columns, strict=True)):
            run = remat if self.remat else FixedCell.__call__
            states = (states[1], run(cell, states, own, train=train))
            if number == self.auxiliary_cell and train and hasattr(self, "auxiliary"):
                auxiliary = self.auxiliary(states[1], train=train)
        last = states[1]
        if auxiliary is not None and self.shares_relu:
            last = jax.nn.relu(last)
        if self.window:
            last = self._first_window(last)
        return self.classifier(self.layout.features(last)), auxiliary

    def _first_window(self, x):
        """The first 7x7 pixels of a map that the original's pooling leaves one window of."""
        sides, window = pixels(x, self.layout), self.window
        if not all(window <= side < 2 * window for side in sides):
            raise ConfigError(
                f"the original's pooling needs 7x7 to 13x13 pixels after the last cell, found "
                f"{sides[0]}x{sides[1]}; take images of 224 pixels or pool over all"
            )
        index = [slice(None)] * x.ndim
        for axis in self.layout.space:
            index[axis] = slice(window)
        return x[tuple(index)]
