"""Genotypes that follow from alphas."""

from darts_dist.config import Config
from darts_dist.genotype import to_dict
from darts_dist.spaces import cnn, derive
from parity.vectors import exact, guarded, read_arrays, read_json

STEM = "cnn_genotypes"
OPERATIONS = tuple(Config().space.operations)


def genotype(alphas, operations=OPERATIONS):
    """Returns the genotype of {cell: alphas f[E, K]} as a JSON tree."""
    weights = {cell: derive.softmax(values) for cell, values in alphas.items()}
    tree = to_dict(derive.top2(weights, operations))
    del tree["space"]
    return tree


def check(directory):
    """Yields a row a set of alphas."""
    wanted = read_json(directory, STEM)["genotypes"]
    arrays = read_arrays(directory, STEM)
    count = max(len(wanted), *(len(values) for values in arrays.values()))
    for i in range(count):

        def rows(i=i):
            found = genotype({cell: arrays[f"alphas_{cell}"][i] for cell in cnn.CELLS})
            return [exact(STEM, f"[{i}]", "", "genotype", found, wanted[i])]

        yield from guarded(STEM, f"[{i}]", "", rows)
