"""Differentiable architecture search, sharded over devices and processes.

The public Python names are reached lazily, so that importing the package starts nothing.
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "Config": "darts_dist.config",
    "Genotype": "darts_dist.genotype",
    "dump": "darts_dist.config",
    "load": "darts_dist.config",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'darts_dist' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return __all__
