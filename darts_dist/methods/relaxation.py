"""From alphas to mixture weights: how the choice among operations is made continuous."""

import jax


def softmax(alphas):
    """Returns the weights of each edge's operations: softmax over the last axis (arXiv
    1806.09055, eq. 2).

    alphas: tree of f[E, K].
    """
    return jax.tree.map(lambda a: jax.nn.softmax(a, -1), alphas)


RELAXATIONS = {"softmax": softmax}
