"""The space of convolutional cells: what the alphas stand for, and the network over them."""

from darts_dist.config import Config
from darts_dist.nets.pure import pure
from darts_dist.nets.supernet import Supernet

CELLS = ("normal", "reduce")


def alpha_shape(config: Config) -> tuple[int, int]:
    """Returns (E, K): edges of a cell, one from every earlier state to every node, and
    operations on each.
    """
    return sum(2 + node for node in range(config.network.nodes)), len(config.space.operations)


def build(config: Config, classes: int, dtype, layout: str | None = None):
    """Returns (init, apply) of the search network (`nets.pure`) for so many classes, parameters
    in `dtype`.

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
        "dtype": dtype,
    }
    return pure(lambda key: Supernet(key, **sizes))
