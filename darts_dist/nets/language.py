"""The language model: words embedded, a recurrent cell over them, logits of the next word.

One matrix embeds words and reads them out. State is explicit: hidden goes in and comes out, masks
of dropout come in (`dropout`); the loss and its penalties are the caller's business.

Letters: T time, N batch, V words, H width, E edges, K operations.
Source: arXiv 1806.09055, section 3.1.2; 1708.02182.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx

from darts_dist.nets.init import Keys, uniform
from darts_dist.nets.recurrent import (
    INIT_RANGE,
    RecurrentFixedCell,
    RecurrentSearchCell,
    masked,
    product,
)


class Outputs(NamedTuple):
    """Of one window: logits f[T, N, V]; hidden f[N, H] for the next window; the cell's outputs
    before and after dropout, f[T, N, H] each.
    """

    logits: Any
    hidden: Any
    raw: Any
    dropped: Any


class LanguageModel(nnx.Module):
    """Logits of each next word of a window, from the words so far.

    words: V.  width: of embeddings, states and outputs.  genotype: `genotype.RnnGenotype` of a
    fixed cell; None for the search cell of so many nodes and these operations (names in the order
    of the weights' columns).  axis_name: mesh axis over which the search cell averages its batch
    statistics, or None.  remat: recompute the products of each step too in the backward pass.
    compute: number format of matrix products; dtype: of the parameters.
    """

    def __init__(
        self,
        key,
        *,
        words,
        width,
        genotype=None,
        nodes=0,
        operations=(),
        axis_name=None,
        remat=False,
        compute=jnp.float32,
        dtype=jnp.float32,
    ):
        keys = Keys(key)
        self.compute = compute
        self.embedding = nnx.Param(uniform(keys, (words, width), INIT_RANGE, dtype))
        rest = {"keys": keys, "compute": compute, "remat": remat, "dtype": dtype}
        if genotype is None:
            self.cell = RecurrentSearchCell(width, nodes, operations, axis_name=axis_name, **rest)
        else:
            self.cell = RecurrentFixedCell(width, genotype, **rest)
        self.bias = nnx.Param(jnp.zeros((words,), dtype))

    def __call__(self, tokens, hidden, weights=None, masks=None, length=None, *, train):
        """Returns `Outputs`, all in at least float32.

        tokens: int[T, N].  hidden: f[N, H], zeros where a text begins.  weights: {"recurrent":
        f[E, K]} for the search cell.  masks: of `dropout.draw_masks`; None or {} in evaluation.
        length: int, of the T words those that count, or None for all. What follows them moves
        neither hidden nor running statistics; its outputs mean nothing.
        train: the search cell normalises by batch statistics and moves the running ones.
        """
        masks, embedding = masks or {}, self.embedding.get_value()
        x = embedding[tokens]
        if "embedding" in masks:
            x = x * jnp.broadcast_to(masks["embedding"][tokens][..., None], x.shape)
        for name in ("input", "cell_input"):
            x = masked(x, masks.get(name))
        weights = None if weights is None else weights["recurrent"]
        raw, hidden = self.cell(x, hidden, weights, masks.get("hidden"), length, train=train)
        dropped = masked(raw, masks.get("output"))
        logits = product(dropped, embedding.T, self.compute)
        bias = jnp.broadcast_to(self.bias.get_value(), logits.shape)
        return Outputs(logits + bias, hidden, raw, dropped)
