"""Dropout of a language model: the masks that `language` takes, made from keys.

All of them stay the same over a whole window. What belongs to an example is keyed by its place in
the global batch, what belongs to the model by the key alone: neither knows how many devices there
are. Sources: arXiv 1512.05287 (variational), 1708.02182 (whole words), in the form of the code of
arXiv 1806.09055.
"""

import jax

from darts_dist.nets.drop_path import factors

MASKS = ("embedding", "input", "cell_input", "hidden", "output")
"""Whole words; embedded words; the same once more where they enter the cell; every state before a
product of the cell; the cell's outputs."""


def draw_masks(key, places, rates, *, words, width, dtype):
    """Returns masks by name, each value 0 or 1 / (1 - rate): f[V] of words, else f[N, H].

    key: of (seed, step).  places: int[N], the examples' places in the global batch.  rates:
    probability of a zero by name in MASKS; what is 0 or left out has no mask.
    """
    masks = {}
    for number, name in enumerate(MASKS):
        rate = rates.get(name, 0)
        if not rate:
            continue
        own = jax.random.fold_in(key, number)
        if name == "embedding":
            drawn = jax.random.uniform(own, (words,), dtype)
        else:
            drawn = _of_examples(own, places, width, dtype)
        masks[name] = factors(drawn >= rate, rate).astype(dtype)
    return masks


def _of_examples(key, places, width, dtype):
    def draw(place):
        return jax.random.uniform(jax.random.fold_in(key, place), (width,), dtype)

    return jax.vmap(draw)(places)
