"""Differentiable architecture search, sharded over devices and processes.

What `__all__` lists is public and stays; modules below it may change. Names are reached lazily, so
that importing the package starts nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darts_dist.bilevel import Search
    from darts_dist.cluster import start
    from darts_dist.config import Config
    from darts_dist.config import dump as dump_config
    from darts_dist.config import load as load_config
    from darts_dist.data.sources import Pictures
    from darts_dist.data.sources import load as load_pictures
    from darts_dist.genotype import CnnGenotype, Genotype, RnnGenotype
    from darts_dist.genotype import load as load_genotype
    from darts_dist.genotype import to_json as genotype_to_json
    from darts_dist.network import NetworkState, SearchNetwork
    from darts_dist.picture import render as draw
    from darts_dist.seedwork import State
    from darts_dist.spaces.derive import from_alphas as derive

__version__ = "0.1.0"
__all__ = [
    "CnnGenotype",
    "Config",
    "Genotype",
    "NetworkState",
    "Pictures",
    "RnnGenotype",
    "Search",
    "SearchNetwork",
    "State",
    "__version__",
    "derive",
    "draw",
    "dump_config",
    "genotype_to_json",
    "load_config",
    "load_genotype",
    "load_pictures",
    "start",
]

_HOMES = {
    "CnnGenotype": "genotype.CnnGenotype",
    "Config": "config.Config",
    "Genotype": "genotype.Genotype",
    "NetworkState": "network.NetworkState",
    "Pictures": "data.sources.Pictures",
    "RnnGenotype": "genotype.RnnGenotype",
    "Search": "bilevel.Search",
    "SearchNetwork": "network.SearchNetwork",
    "State": "seedwork.State",
    "derive": "spaces.derive.from_alphas",
    "draw": "picture.render",
    "dump_config": "config.dump",
    "genotype_to_json": "genotype.to_json",
    "load_config": "config.load",
    "load_genotype": "genotype.load",
    "load_pictures": "data.sources.load",
    "start": "cluster.start",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'darts_dist' has no attribute {name!r}")
    module, _, own = _HOMES[name].rpartition(".")
    return getattr(importlib.import_module(f"darts_dist.{module}"), own)


def __dir__() -> list[str]:
    return __all__
