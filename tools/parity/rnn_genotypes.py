"""Genotypes of recurrent cells that follow from alphas."""

from darts_dist.genotype import to_dict
from darts_dist.spaces import rnn
from parity.vectors import VectorError, exact, guarded, read_arrays, read_json

STEM = "rnn_genotypes"


def genotype(alphas):
    """Returns the genotype of alphas f[E, K] as a JSON tree."""
    tree = to_dict(rnn.derive_genotype({rnn.CELL: alphas}))
    del tree["space"]
    return tree


def check(directory):
    """Yields a row a set of alphas."""
    wanted = read_json(directory, STEM)["genotypes"]
    alphas = read_arrays(directory, STEM).get("alphas")
    if alphas is None:
        raise VectorError(f"{STEM}.npz has no alphas")
    for i in range(max(len(wanted), len(alphas))):

        def rows(i=i):
            return [exact(STEM, f"[{i}]", "", "genotype", genotype(alphas[i]), wanted[i])]

        yield from guarded(STEM, f"[{i}]", "", rows)
