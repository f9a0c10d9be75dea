"""Losses and scores of logits: pure functions, an example at a time.

Means over a batch are the caller's. Letters: N batch, K classes.
"""

import jax
import jax.numpy as jnp


def cross_entropy(logits, labels, smoothing=0.0):
    """Returns each example's cross entropy, f[N], of logits f[N, K] and labels int[N].

    smoothing: share of the target that is spread evenly over all classes (arXiv 1512.00567).
    """
    chosen = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
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
