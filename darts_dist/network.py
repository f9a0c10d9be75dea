"""A search network by its sizes, its state explicit: what a user builds on from Python.

Place: layer 3, beside `bilevel`. It adds nothing to the network that `search` runs (`spaces.cnn`):
it takes sizes instead of a config, and turns alphas into mixture weights itself.

Letters: N batch, H W pixels, E edges of a cell, K operations.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax

from darts_dist import schema
from darts_dist.config import Config, Space
from darts_dist.genotype import Genotype
from darts_dist.methods.relaxation import softmax
from darts_dist.spaces import cnn, derive


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NetworkState:
    """All that a search network is, a pytree.

    params: weights.  stats: running means and variances of its norms.  alphas: {"normal": f[E, K],
    "reduce": f[E, K]}, rows node after node, columns in the order of the operations.
    """

    params: Any
    stats: Any
    alphas: Any


class SearchNetwork:
    """The network over all candidate operations (arXiv 1806.09055, section 2), pure and compiled.

    Arguments are those of the tables `network` and `space` of a config, and mean the same;
    dtype is that of the weights.  Raises ConfigError for a size that cannot be.
    """

    def __init__(
        self,
        *,
        channels: int = 16,
        layers: int = 8,
        nodes: int = 4,
        classes: int = 10,
        in_channels: int = 3,
        operations: Sequence[str] = Space().operations,
        stem: Literal["cifar", "imagenet"] = "cifar",
        init: Literal["original", "modern"] = "original",
        remat: bool = False,
        dtype: Literal["float32", "float64"] = "float32",
    ) -> None:
        sizes = {
            "channels": channels,
            "layers": layers,
            "nodes": nodes,
            "classes": classes,
            "in_channels": in_channels,
            "stem": stem,
            "init": init,
            "remat": remat,
        }
        tree = {
            "space": {"operations": list(operations)},
            "network": sizes,
            "precision": {"compute": dtype},
        }
        self.config = schema.convert(Config, tree)
        init_weights, apply = cnn.build(self.config, self.config.network.classes)
        self._init = jax.jit(init_weights)
        self._apply = jax.jit(apply, static_argnames="train")

    def init(self, key: jax.Array) -> NetworkState:
        """Returns a first state, drawn by a key of `jax.random.key`."""
        weights, alphas = jax.random.split(key)
        params, stats = self._init(weights)
        return NetworkState(params, stats, cnn.draw_alphas(alphas, self.config))

    def apply(
        self, params: Any, stats: Any, alphas: Any, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, Any]:
        """Returns (logits f[N, classes], statistics) of normalised images f[N, H, W, in_channels].

        train: normalise by the batch and move the statistics; otherwise they are used as they are.
        """
        return self._apply(params, stats, images, softmax(alphas), train=train)

    def __call__(
        self, images: jax.Array, state: NetworkState, *, train: bool = False
    ) -> tuple[jax.Array, NetworkState]:
        """Returns (logits, state) of `apply`, the statistics moved where `train` is true."""
        logits, stats = self.apply(state.params, state.stats, state.alphas, images, train=train)
        return logits, dataclasses.replace(state, stats=stats)

    def derive(self, state: NetworkState) -> Genotype:
        """Returns the genotype of the alphas, by the rule of arXiv 1806.09055, section 2.4."""
        return derive.from_alphas(jax.device_get(state.alphas), self.config.space.operations)
