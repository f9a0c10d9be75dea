"""Names and layouts of the original's recurrent networks, into this package's trees and back.

The entries of `interop` for `nets.language.LanguageModel`, of the search and of a genotype alike.
The original lists its one matrix of words twice, as what embeds and as what reads out; here it is
one leaf. `read` takes a whole file.  Letters: V words, H width.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from darts_dist import weightfile
from darts_dist.errors import CheckpointError
from darts_dist.genotype import RnnGenotype
from darts_dist.interop import (
    PARAMS,
    Entry,
    Tree,
    check_ranks,
    from_torch,
    norm_entries,
    to_torch,
)
from darts_dist.weightfile import EMBEDDING

READ_OUT, BIAS = "decoder.weight", "decoder.bias"
FIRST, NODE, NORM = "rnns.0._W0", "rnns.0._Ws.", "rnns.0.bn"


def recurrent_from_torch(
    state: Mapping[str, np.ndarray], *, statistics: bool = True
) -> tuple[Tree, Tree]:
    """Returns (params, stats) of `nets.language.LanguageModel` from a state dict of the original's.

    Sizes follow from the arrays, and whether it is the search network from the norm's statistics;
    stats is {} for another, and where `statistics` is false.  Raises CheckpointError that lists
    names which are missing, too many or of another shape, or says that the two matrices of words
    differ.
    """
    check_ranks(state, {EMBEDDING: 2, FIRST: 2}, "a recurrent network")
    words, width = state[EMBEDDING].shape
    if READ_OUT in state and not np.array_equal(state[READ_OUT], state[EMBEDDING]):
        raise CheckpointError(
            f"{READ_OUT} and {EMBEDDING} differ; wanted one matrix, listed twice (tied weights)"
        )
    entries = recurrent_entries(
        words=words,
        width=width,
        nodes=sum(name.startswith(NODE) for name in state),
        search=any(name.startswith(NORM) for name in state),
    )
    kept = {name: value for name, value in state.items() if name != READ_OUT}
    return from_torch(kept, (e for e in entries if statistics or e.tree == PARAMS))


def recurrent_to_torch(params: Tree, stats: Tree | None = None, *, twice: bool = False) -> dict:
    """Returns names -> arrays of the original's recurrent network, in its order.

    params: the parameters, or gradients of the same structure.  stats: None or {} leaves running
    statistics out.  twice: list the matrix of words a second time, as a state dict does.
    """
    words, width = params["embedding"].shape
    entries = recurrent_entries(
        words=words, width=width, nodes=len(params["cell"]["nodes"]), search=bool(stats)
    )
    out = to_torch(params, stats or None, entries)
    if not twice:
        return out
    return {name: out[name] for name in out if name != BIAS} | {
        READ_OUT: out[EMBEDDING],
        BIAS: out[BIAS],
    }


def recurrent_entries(*, words: int, width: int, nodes: int, search: bool) -> Iterator[Entry]:
    """Yields the entries of a recurrent network in the original's order; search: it has a norm."""
    yield Entry(EMBEDDING, (words, width), "vector", ("embedding",))
    yield Entry(FIRST, (2 * width, 2 * width), "vector", ("cell", "first"))
    for node in range(nodes):
        shape = (width, 2 * width)
        yield Entry(f"{NODE}{node}", shape, "vector", ("cell", "nodes"), (node,))
    if search:
        yield from norm_entries(NORM, ("cell",), width)
    yield Entry(BIAS, (words,), "vector", ("bias",))


def read(path: str) -> tuple[Tree, RnnGenotype | None]:
    """Returns (params, genotype or None) of a recurrent network in a file.

    Raises CheckpointError or DataError for one with other tensors.
    """
    state, value = weightfile.read_module(path)
    for name, array in state.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} has numbers that are not finite")
    names = {name.replace("rnns.0._Ws._", "rnns.0._Ws."): one for name, one in state.items()}
    try:
        params, stats = recurrent_from_torch(names)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if stats:
        raise CheckpointError(f"{path} is a search network; wanted one of a genotype")
    return params, value
