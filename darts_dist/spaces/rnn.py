"""The space of recurrent cells: what the alphas stand for, and the language model over them.

Letters: E edges, K operations, M nodes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist.genotype import RnnGenotype
from darts_dist.nets.language import LanguageModel
from darts_dist.nets.pure import pure
from darts_dist.spaces import derive

OPERATIONS = ("none", "tanh", "relu", "sigmoid", "identity")
"""The original's candidates, in its order."""
NODES = 8
CELL = "recurrent"


def alpha_shape(nodes: int, operations=OPERATIONS) -> tuple[int, int]:
    """Returns (E, K): edges of a cell, one from every earlier state to every node, and
    operations on each.
    """
    return sum(1 + node for node in range(nodes)), len(operations)


def draw_alphas(key, *, nodes: int, operations=OPERATIONS, scale: float, dtype=jnp.float32):
    """Returns first alphas, {"recurrent": f[E, K]}: normal, `scale` wide."""
    return {CELL: scale * jax.random.normal(key, alpha_shape(nodes, operations), dtype)}


def build(
    *,
    words: int,
    width: int,
    nodes: int,
    operations=OPERATIONS,
    sync: bool = False,
    remat: bool = False,
    compute=jnp.float32,
):
    """Returns (init, apply) of the language model over the search cell (`nets.pure`).

    sync: batch statistics are of the whole global batch.  compute: number format of products;
    parameters are in it too, but never in less than float32.  The rest: see `LanguageModel`.
    """
    sizes = {
        "nodes": nodes,
        "operations": tuple(operations),
        "axis_name": "data" if sync else None,
    }
    return _build(words, width, remat, compute, **sizes)


def build_network(
    genotype: RnnGenotype, *, words: int, width: int, remat: bool = False, compute=jnp.float32
):
    """Returns (init, apply) of the language model over a genotype's cell, otherwise like `build`.

    It has no statistics and takes no weights.
    """
    return _build(words, width, remat, compute, genotype=genotype)


def _build(words, width, remat, compute, **cell):
    dtype = jnp.promote_types(compute, jnp.float32)
    sizes = {"words": words, "width": width, "remat": remat, "compute": compute, "dtype": dtype}
    return pure(lambda key: LanguageModel(key, **sizes, **cell))


def derive_genotype(alphas, operations=OPERATIONS) -> RnnGenotype:
    """Returns the genotype of one seed's alphas {"recurrent": f[E, K]}: each node's strongest edge.

    Source: arXiv 1806.09055, section 2.4.  Raises GenotypeError as `derive.top2` does.
    """
    value = derive.from_alphas(alphas, operations, "rnn")
    assert isinstance(value, RnnGenotype)
    return value


def random_cell(operations, nodes: int, seed: int) -> RnnGenotype:
    """Returns a genotype drawn uniformly: an earlier state and an operation a node, never none.

    The baseline of arXiv 1806.09055, section 3.2.
    """
    draw = np.random.Generator(np.random.Philox(seed))
    taken = [operation for operation in operations if operation != "none"]
    entries = [(str(draw.choice(taken)), int(draw.integers(1 + node))) for node in range(nodes)]
    return RnnGenotype(tuple(entries), tuple(range(1, 1 + nodes)))
