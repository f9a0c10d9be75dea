"""Losses and scores of logits: pure functions, an example at a time.

Means over a batch are the caller's. Letters: N batch, K classes; of texts: T time, V words, H
width.
"""

import jax
import jax.numpy as jnp


def cross_entropy(logits, labels, smoothing=0.0):
    """Returns each example's cross entropy, f[N], of logits f[N, K] and labels int[N].

    smoothing: share of the target that is spread evenly over all classes (arXiv 1512.00567).
    """
    # A comparison with all classes: what it is differentiated to joins the other kernels, where an
    # indexed read would become a scatter.
    is_label = labels[:, None] == jnp.arange(logits.shape[-1])[None]
    chosen = jnp.where(is_label, logits, jnp.zeros((), logits.dtype)).sum(-1)
    if smoothing:
        chosen = (1 - smoothing) * chosen + smoothing * logits.mean(-1)
    return jax.nn.logsumexp(logits, -1) - chosen


def with_auxiliary(outputs, labels, weight, smoothing=0.0):
    """Returns each example's loss in training, f[N]: the auxiliary head's added `weight` times.

    outputs: (logits, logits of the head or None) of `nets.network.Network`.
    """
    logits, auxiliary = outputs
    loss = cross_entropy(logits, labels, smoothing)
    if auxiliary is None:
        return loss
    return loss + weight * cross_entropy(auxiliary, labels, smoothing)


def is_right(logits, labels):
    """Returns 1 where the largest logit is the label's, else 0: f[N]."""
    return (jnp.argmax(logits, -1) == labels).astype(logits.dtype)


def is_among(logits, labels, k):
    """Returns 1 where the label's logit is one of the k largest, else 0: f[N].

    Of equal logits the first come first, so that k = 1 is `is_right`.
    """
    _, classes = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    return (classes == labels[:, None]).any(-1).astype(logits.dtype)


def sequence_cross_entropy(logits, targets, length=None):
    """Returns each example's mean cross entropy of a word, f[N]: logits f[T, N, V], int[T, N].

    length: words of the window that count, the first ones; None for all.
    """
    flat = cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
    return _mean_over_time(flat.reshape(targets.shape), length)


def activation_penalty(dropped, length=None):
    """Returns each example's mean square of a cell's outputs after dropout, f[N]: f[T, N, H].

    length: see `sequence_cross_entropy`.  Source: arXiv 1708.01009 (AR).
    """
    return _mean_over_time(jnp.square(dropped).mean(-1), length)


def temporal_penalty(raw, length=None):
    """Returns each example's mean square of a cell's outputs' changes, f[N]: f[T, N, H].

    Before dropout; between the steps of a window, so that a window of one step has none.  length:
    see `sequence_cross_entropy`.  Source: arXiv 1708.01009 (TAR).
    """
    steps = jnp.square(raw[1:] - raw[:-1]).mean(-1)
    if not len(steps):
        return jnp.zeros_like(raw[0, :, 0])
    return _mean_over_time(steps, None if length is None else length - 1)


def _mean_over_time(values, length):
    """Returns the mean over the first `length` of f[T, N], f[N]; 0 where none counts."""
    if length is None:
        return values.mean(0)
    counts = jnp.arange(len(values)) < length
    kept = jnp.where(counts[:, None], values, jnp.zeros((), values.dtype))
    return kept.sum(0) / jnp.maximum(length, 1).astype(values.dtype)
