"""The search network: a stem, cells of mixed edges, global pooling and a linear classifier
(arXiv 1806.09055, section 2).

It takes mixture weights, not alphas: what turns alphas into weights is a method's business.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from darts_dist.nets import init as initial
from darts_dist.nets.cells import SearchCell
from darts_dist.nets.init import Keys
from darts_dist.nets.layout import LAYOUTS, default_layout
from darts_dist.nets.maps import widen
from darts_dist.nets.norm import BatchNorm
from darts_dist.nets.pure import remat
from darts_dist.nets.rows import arranged

STEM_MULTIPLIER = 3


class CifarStem(nnx.Module):
    """3x3 convolution to 3 C channels and an affine batch norm;
    both first states are its output.
    """

    def __init__(self, channels_in, channels, *, keys, layout, init, axis_name, dtype):
        self.layout = layout
        self.channels = (STEM_MULTIPLIER * channels,) * 2
        self.weight = nnx.Param(initial.conv(keys, (3, 3, channels_in, self.channels[0]), dtype))
        self.norm = BatchNorm(
            self.channels[0],
            layout=layout,
            affine=True,
            keys=keys,
            init=init,
            axis_name=axis_name,
            dtype=dtype,
        )

    def __call__(self, x, *, train):
        state = self.norm(self.layout.conv(x, self.weight.get_value(), (1, 1), (1, 1)), train=train)
        return state, state


class ImageNetStem(nnx.Module):
    """Three 3x3 convolutions of stride 2:
    states at a quarter and at an eighth of the image's side.
    """

    def __init__(self, channels_in, channels, *, keys, layout, init, axis_name, dtype):
        self.layout = layout
        self.channels = (channels,) * 2
        sizes = [
            (channels_in, max(channels // 2, 1)),
            (max(channels // 2, 1), channels),
            (channels, channels),
        ]
        self.weights = nnx.List(
            [nnx.Param(initial.conv(keys, (3, 3, *size), dtype)) for size in sizes]
        )
        self.norms = nnx.List(
            [
                BatchNorm(
                    size[1],
                    layout=layout,
                    affine=True,
                    keys=keys,
                    init=init,
                    axis_name=axis_name,
                    dtype=dtype,
                )
                for size in sizes
            ]
        )

    def __call__(self, x, *, train):
        states = []
        for at, (weight, norm) in enumerate(zip(self.weights, self.norms, strict=True)):
            x = jax.nn.relu(x) if at else x
            x = norm(self.layout.conv(x, weight.get_value(), (2, 2), (1, 1)), train=train)
            states.append(x)
        return states[1], states[2]


STEMS = {"cifar": CifarStem, "imagenet": ImageNetStem}


def is_reduction(cell, cells):
    """Whether a cell halves the map: those at one and at two thirds of the depth."""
    return cell in (cells // 3, 2 * cells // 3)


class Supernet(nnx.Module):
    """Logits of images under mixture weights.

    channels: width C of the first cells; doubled at each reduction.  operations: names in the
    order of the weights' columns.
    stem: "cifar" or "imagenet" (first states at 1/4 and 1/8).  init: "original" or "modern"
    (`init`).  layout: a name in LAYOUTS or None for the backend's best.  axis_name: mesh axis over
    which batch statistics are averaged, or None.
    remat: recompute each cell in the backward pass instead of storing its activations.
    """

    def __init__(
        self,
        key,
        *,
        channels,
        layers,
        nodes,
        classes,
        channels_in,
        operations,
        stem="cifar",
        init="original",
        layout=None,
        axis_name=None,
        remat=False,
        dtype=jnp.float32,
    ):
        keys = Keys(key)
        self.layout, self.remat = LAYOUTS[layout or default_layout()], remat
        rest = {
            "keys": keys,
            "layout": self.layout,
            "init": init,
            "axis_name": axis_name,
            "dtype": dtype,
        }
        self.stem = STEMS[stem](channels_in, channels, **rest)
        inputs, width, before = self.stem.channels, channels, stem == "imagenet"
        self.operations = tuple(operations)
        self.reductions = tuple(is_reduction(cell, layers) for cell in range(layers))
        cells = []
        for reduction in self.reductions:
            width *= 2 if reduction else 1
            cells.append(
                SearchCell(
                    inputs,
                    width,
                    nodes,
                    operations,
                    reduction=reduction,
                    reduction_before=before,
                    **rest,
                )
            )
            inputs, before = (inputs[1], nodes * width), reduction
        self.cells = nnx.List(cells)
        self.classifier_weight = nnx.Param(initial.pointwise(keys, (inputs[1], classes), dtype))
        self.classifier_bias = nnx.Param(
            initial.uniform(keys, (classes,), inputs[1] ** -0.5, dtype)
        )

    def __call__(self, images, weights, *, train):
        """Returns logits f[N, classes] in at least float32.

        images: f[N, H, W, channels_in].  weights: {"normal": f[E, K], "reduce": f[E, K]},
        rows node-major.
        train: normalise by batch statistics and move the running ones; otherwise use the running
        ones.
        """
        states = self.stem(self.layout.from_images(images), train=train)
        mixtures = {name: arranged(p, self.operations) for name, p in weights.items()}
        for cell, reduction in zip(self.cells, self.reductions, strict=True):
            p = mixtures["reduce" if reduction else "normal"]
            out = (
                remat(cell, states, p, train=train) if self.remat else cell(states, p, train=train)
            )
            states = (states[1], out)
        features = self.layout.features(states[1])
        bias = self.classifier_bias.get_value()
        return features @ widen(self.classifier_weight.get_value()) + bias[None]
