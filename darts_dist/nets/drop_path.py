"""Drop-path: an operation's whole output is left out, for one example at a time.

The networks take factors, f[N, P] for P paths, and know nothing of keys or probabilities; this
module makes the factors. The probability is a value like any other, so a schedule of it compiles
nothing anew. Source: arXiv 1605.07648, in the form of the code of arXiv 1806.09055.
"""

import jax
import jax.numpy as jnp


def draw_factors(key, places, paths, probability):
    """Returns factors f[N, P] that leave each path of each example out with a probability.

    key: of (seed, step).  places: int[N], the examples' places in the global batch.  paths: P.
    """

    def draw(place):
        return jax.random.uniform(jax.random.fold_in(key, place), (paths,))

    return factors(jax.vmap(draw)(places) >= probability, probability)


def factors(kept, probability):
    """Returns 1 / (1 - probability) where a path is kept, else 0; nothing is left out at 0.

    kept: bool or 0/1 of any shape.
    """
    probability = jnp.asarray(probability)
    scale = 1 / jnp.where(probability < 1, 1 - probability, 1)
    kept = jnp.asarray(kept, bool) | (probability <= 0)
    return jnp.where(kept, scale, jnp.zeros_like(scale))


def drop(x, factor, layout):
    """Returns a map with every example multiplied by its factor, f[N]."""
    shape = [1] * x.ndim
    shape[layout.batch] = -1
    return x * factor.astype(x.dtype).reshape(shape)
