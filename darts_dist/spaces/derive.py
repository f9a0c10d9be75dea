"""Derivation: from the mixture weights of a trained supernet to a genotype, on the host in numpy.

It decides which edges and operations stay, with the original's tie-breaks; what makes mixture
weights out of alphas during the search is the method's business, `softmax` here is the original's.
Letters: `E` edges of a cell, `K` operations on an edge; the edges of node 0 come first, and each
node's edges go by the state that they come from.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from darts_dist.errors import GenotypeError
from darts_dist.genotype import CnnGenotype, Entries, Genotype, RnnGenotype

INPUTS = {"cnn": 2, "rnn": 1}  # states that a cell has before its first node
KEPT = {"cnn": 2, "rnn": 1}  # edges that a node keeps


def softmax(alphas) -> np.ndarray:
    """Returns the mixture weights of alphas over the last axis, `none` included; same dtype."""
    alphas = np.asarray(alphas)
    powers = np.exp(alphas - alphas.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def nodes_of(edges: int, space: str) -> int:
    """Returns the number of nodes of a cell with so many edges; GenotypeError when none has."""
    nodes, total = 0, 0
    while total < edges:
        total += INPUTS[space] + nodes
        nodes += 1
    if total != edges or edges == 0:
        raise GenotypeError(
            f"no {space} cell has {edges} edges; node i has {INPUTS[space]} + i of them"
        )
    return nodes


def edges_of(edges: int, space: str) -> list[tuple[int, int]]:
    """Returns the states that each of so many edges leads from and to, numbered as in a genotype.

    GenotypeError when no cell has so many.
    """
    inputs = INPUTS[space]
    ends = range(inputs, inputs + nodes_of(edges, space))
    return [(start, end) for end in ends for start in range(end)]


def top2(
    weights: Mapping[str, np.ndarray], operations: Sequence[str], space: str = "cnn"
) -> Genotype:
    """Returns the original's genotype: each node's strongest edges, each with its best operation.

    weights: f[E, K] mixture weights, cnn: under "normal" and "reduce", rnn: under "recurrent".
    operations: the K names in the order of the columns; `none` is never taken. cnn keeps two edges
    a node, listed strongest first, rnn one. Ties go to the lower state and to the lower operation.
    Source: arXiv 1806.09055, section 2.4.
    """
    cells = {name: _cell(name, weight, operations, space) for name, weight in weights.items()}
    wanted = {"cnn": {"normal", "reduce"}, "rnn": {"recurrent"}}[space]
    if set(cells) != wanted:
        raise GenotypeError(f"weights are of {sorted(cells)}, and {space} needs {sorted(wanted)}")
    if space == "rnn":
        return RnnGenotype(cells["recurrent"], tuple(range(1, 1 + len(cells["recurrent"]))))
    concat = {name: tuple(range(2, 2 + len(cell) // 2)) for name, cell in cells.items()}
    return CnnGenotype(cells["normal"], concat["normal"], cells["reduce"], concat["reduce"])


def _cell(name: str, weights, operations: Sequence[str], space: str) -> Entries:
    weights = np.asarray(weights)
    if weights.ndim != 2 or weights.shape[1] != len(operations):
        raise GenotypeError(
            f"{name} weights have the shape {weights.shape}, wanted (edges, {len(operations)}) for "
            f"{', '.join(operations)}"
        )
    if not np.isfinite(weights).all():
        raise GenotypeError(
            f"{name} weights hold values that are not finite; no cell follows from them"
        )
    taken = [k for k, operation in enumerate(operations) if operation != "none"]
    if not taken:
        raise GenotypeError("no operation besides 'none' is there to be taken")
    strength, entries, first = weights[:, taken], [], 0
    for node in range(nodes_of(len(weights), space)):
        rows = strength[first : first + INPUTS[space] + node]
        strongest = np.argsort(-rows.max(axis=1), kind="stable")[: KEPT[space]]
        entries += [(operations[taken[int(rows[j].argmax())]], int(j)) for j in strongest]
        first += len(rows)
    return tuple(entries)


RULES = {"top2": top2}


def from_alphas(
    alphas: Mapping[str, np.ndarray],
    operations: Sequence[str],
    space: str = "cnn",
    rule: str = "top2",
) -> Genotype:
    """Returns the genotype of one seed's alphas, f[E, K] by cell, by a rule of RULES.

    operations: the K names in the order of the columns.  Raises GenotypeError as the rule does.
    """
    weights = {cell: softmax(values) for cell, values in alphas.items()}
    return RULES[rule](weights, operations, space)


def random_cells(operations: Sequence[str], nodes: int, seed: int) -> CnnGenotype:
    """Returns a genotype drawn uniformly: two earlier states a node, an operation each, never none.

    The baseline of arXiv 1806.09055, section 3.2.
    """
    draw = np.random.Generator(np.random.Philox(seed))
    taken = [operation for operation in operations if operation != "none"]

    def cell() -> Entries:
        pairs = [draw.choice(2 + node, 2, replace=False) for node in range(nodes)]
        return tuple((str(draw.choice(taken)), int(state)) for pair in pairs for state in pair)

    concat = tuple(range(2, 2 + nodes))
    return CnnGenotype(cell(), concat, cell(), concat)
