"""Differentiable architecture search, sharded over devices and processes.

The public Python names are reached lazily, so that importing the package starts nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darts_dist.config import Config, dump, load
    from darts_dist.genotype import Genotype

__version__ = "0.1.0"
__all__ = ["Config", "Genotype", "__version__", "dump", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'darts_dist' has no attribute {name!r}")
    module = "genotype" if name == "Genotype" else "config"
    return getattr(importlib.import_module(f"darts_dist.{module}"), name)


def __dir__() -> list[str]:
    return __all__
