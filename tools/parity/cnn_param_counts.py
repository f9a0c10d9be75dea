"""Numbers of parameters, of networks that are described and never made."""

import re

import jax

from darts_dist import genotype as genotypes
from darts_dist import interop
from darts_dist.config import Config
from darts_dist.interop_network import network_entries
from darts_dist.nets.network import Network
from darts_dist.nets.pure import pure
from darts_dist.nets.supernet import Supernet
from parity.vectors import VectorError, exact, guarded, read_json

STEM = "cnn_param_counts"
FIXED = re.compile(r"(cifar|imagenet)_C(\d+)_L(\d+)_classes(\d+)_(\w+?)(_auxiliary)?")
SEARCH = re.compile(r"search_C(\d+)_L(\d+)")
CHANNELS_IN, SEARCH_CLASSES, SEARCH_NODES = 3, 10, 4  # the names leave these out


def check(directory):
    """Yields a row a network and number."""
    for name, wanted in read_json(directory, STEM)["counts"].items():

        def rows(name=name, wanted=wanted):
            found = counts(name)
            return [exact(STEM, name, "", key, found.get(key), wanted[key]) for key in wanted]

        yield from guarded(STEM, name, "", rows)


def counts(name):
    """Returns the numbers of a network that is named by its kind and sizes."""
    if match := FIXED.fullmatch(name):
        stem, channels, layers, classes, genotype, auxiliary = match.groups()
        sizes = {
            "genotype": genotypes.load(genotype, "cnn"),
            "stem": stem,
            "channels": int(channels),
            "layers": int(layers),
            "classes": int(classes),
            "auxiliary": bool(auxiliary),
        }
        build, entries = Network, network_entries
    elif match := SEARCH.fullmatch(name):
        channels, layers = map(int, match.groups())
        sizes = {
            "channels": channels,
            "layers": layers,
            "classes": SEARCH_CLASSES,
            "nodes": SEARCH_NODES,
            "operations": tuple(Config().space.operations),
        }
        build, entries = Supernet, interop.search_entries
    else:
        raise VectorError(f"{name}: no network is named like this")
    sizes["channels_in"] = CHANNELS_IN
    init, _ = pure(lambda key: build(key, **sizes))
    params, _ = jax.eval_shape(init, jax.random.key(0))
    total, auxiliary = _size(params), _size(params.get("auxiliary", {}))
    tensors = sum(entry.tree == interop.PARAMS for entry in entries(**sizes))
    return {"total": total, "without_auxiliary": total - auxiliary, "tensors": tensors}


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
