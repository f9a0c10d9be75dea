"""The space of convolutional cells: what the alphas stand for, and the network over them."""

import jax
import jax.numpy as jnp

from darts_dist.config import Config
from darts_dist.genotype import CnnGenotype
from darts_dist.nets.network import Network, drop_paths
from darts_dist.nets.pure import pure
from darts_dist.nets.supernet import Supernet
from darts_dist.trainconfig import TrainConfig

CELLS = ("normal", "reduce")


def alpha_shape(config: Config) -> tuple[int, int]:
    """Returns (E, K): edges of a cell, one from every earlier state to every node, and
    operations on each.
    """
    return sum(2 + node for node in range(config.network.nodes)), len(config.space.operations)


def draw_alphas(key, config: Config):
    """Returns first alphas, {"normal": f[E, K], "reduce": f[E, K]}: normal, alphas.init_scale wide.

    They are in precision.compute, but never less than float32.
    """
    scale, dtype = config.alphas.init_scale, jnp.promote_types(config.precision.compute, "float32")
    return {
        cell: scale * jax.random.normal(draw, alpha_shape(config), dtype)
        for cell, draw in zip(CELLS, jax.random.split(key), strict=True)
    }


def build(config: Config, classes: int, layout: str | None = None):
    """Returns (init, apply) of the search network (`nets.pure`) for so many classes.

    Parameters are in precision.compute, but never less than float32.
    layout: a name of `nets.layout.LAYOUTS`; None for the fastest on the default backend.
    """
    network = config.network
    sizes = {
        "channels": network.channels,
        "layers": network.layers,
        "nodes": network.nodes,
        "classes": classes,
        "channels_in": network.in_channels,
        "operations": config.space.operations,
        "stem": network.stem,
        "init": network.init,
        "remat": network.remat,
        "layout": layout,
        "axis_name": "data" if config.batch_norm.sync == "batch" else None,
        "dtype": jnp.promote_types(config.precision.compute, "float32"),
    }
    return pure(lambda key: Supernet(key, **sizes))


def build_network(config: TrainConfig, value: CnnGenotype, classes: int, layout: str | None = None):
    """Returns (init, apply) of the network of one genotype, otherwise like `build`."""
    network = config.network
    sizes = {
        "genotype": value,
        "channels": network.channels,
        "layers": network.layers,
        "classes": classes,
        "channels_in": network.in_channels,
        "stem": network.stem,
        "auxiliary": config.regularisation.auxiliary_weight > 0,
        "original": network.original,
        "init": network.init,
        "remat": network.remat,
        "layout": layout,
        "axis_name": "data" if config.batch_norm.sync == "batch" else None,
        "dtype": jnp.promote_types(config.precision.compute, "float32"),
    }
    return pure(lambda key: Network(key, **sizes))


def count_paths(config: TrainConfig, value: CnnGenotype) -> int:
    """Returns how many operations of a genotype's network drop-path may leave out."""
    return len(drop_paths(value, layers=config.network.layers))
