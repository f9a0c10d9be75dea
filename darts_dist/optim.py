"""Optimisers and schedules as the original runs them, as optax transformations.

The learning rate is not part of a transformation: it follows from the epoch, is computed on the
host in double precision, and the architecture step needs it too.  Source: arXiv 1806.09055 and
PyTorch 0.3.1, for which it was written.
"""

import math

import jax
import jax.numpy as jnp
import optax


def cosine(rate, rate_min, epochs):
    """Returns epoch -> learning rate, falling from `rate` at epoch 0 along a cosine to
    `rate_min` at `epochs`.
    """

    def at(epoch):
        return rate_min + (rate - rate_min) * (1 + math.cos(math.pi * epoch / epochs)) / 2

    return at


def step(rate, factor, period):
    """Returns epoch -> learning rate, multiplied by `factor` every `period` epochs."""

    def at(epoch):
        return rate * factor ** (epoch // period)

    return at


def ramp(value, epochs):
    """Returns epoch -> probability of drop-path, rising from 0 at epoch 0 to `value` at `epochs`,
    which is never reached.
    """

    def at(epoch):
        return value * epoch / epochs

    return at


def clip_by_norm(limit):
    """Returns the clipping of PyTorch:
    gradients times limit / (norm + 1e-6) where that is below 1; 0 switches it off.
    """

    def update(updates, state, params=None):
        del params
        factor = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return (
        optax.GradientTransformation(lambda params: optax.EmptyState(), update)
        if limit
        else optax.identity()
    )


def momentum_sgd(momentum, weight_decay, clip_norm):
    """Returns clip, then decay of every parameter, then momentum:
    b = momentum * b + g + decay * w; w falls by rate * b.
    """
    return optax.chain(
        clip_by_norm(clip_norm), optax.add_decayed_weights(weight_decay), optax.trace(momentum)
    )


def momentum_buffer(state):
    """Returns the momentum buffer, a tree like the parameters, of a `momentum_sgd` state."""
    return optax.tree.get(state, "trace")


def adam(betas, epsilon, weight_decay, placement):
    """Returns Adam with weight decay added to the gradient (L2), not decoupled.

    placement: "modern" adds epsilon to the bias-corrected root of the second moment;
    "original" (PyTorch 0.3.1) to the uncorrected one, where it weighs 1 / sqrt(1 - beta2^t) times
    as much.
    """
    scale = optax.scale_by_adam(*betas, eps=epsilon)
    if placement == "original":
        scale = optax.GradientTransformation(
            scale.init, _original_adam(betas[0], betas[1], epsilon)
        )
    return optax.chain(optax.add_decayed_weights(weight_decay), scale)


def _original_adam(beta1, beta2, epsilon):
    def update(updates, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * jnp.square(g), state.nu, updates)

        def step(m, v):
            t = count.astype(m.dtype)
            correction = jnp.sqrt(1 - beta2**t) / (1 - beta1**t)
            return correction * m / (jnp.sqrt(v) + epsilon)

        return jax.tree.map(step, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return update


def descend(transformation, rate, grads, state, params):
    """Returns (parameters, state) after one step of a transformation at a learning rate."""
    updates, state = transformation.update(grads, state, params)
    return jax.tree.map(lambda p, u: p - jnp.asarray(rate, p.dtype) * u, params, updates), state
