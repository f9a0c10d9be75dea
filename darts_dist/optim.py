"""Optimisers and schedules as the original runs them, as optax transformations.

The learning rate is not part of a transformation: it follows from the epoch, is computed on the
host in double precision, and the architecture step needs it too.  Source: arXiv 1806.09055 and
PyTorch 0.3.1, for which it was written.
"""

import dataclasses
import math
from typing import Any

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


def clip(grads, limit, *, capped=True):
    """Returns (gradients times a factor, the factor): limit / (norm + 1e-6), at most 1.

    The clipping of PyTorch.  capped: false returns the factor as it would be without "at most 1",
    as the original's architecture step on recurrent cells takes it; the gradients are the same.
    """
    factor = limit / (optax.tree.norm(grads) + 1e-6)
    least = jnp.minimum(1.0, factor)
    clipped = jax.tree.map(lambda g: g * least.astype(g.dtype), grads)
    return clipped, least if capped else factor


def clip_by_norm(limit):
    """Returns `clip` as a transformation; 0 switches it off."""

    def update(updates, state, params=None):
        del params
        return clip(updates, limit)[0], state

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


def sgd(weight_decay, clip_norm):
    """Returns clip, then decay of every parameter: g + decay * w."""
    return optax.chain(clip_by_norm(clip_norm), optax.add_decayed_weights(weight_decay))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Averaging:
    """What averaged SGD keeps.

    count: int32, steps since averaging began.  rate: that was set at the step before.  average: of
    the parameters; as long as nothing is averaged, the parameters themselves.
    """

    count: Any
    rate: Any
    average: Any


def begin_averaging(params):
    """Returns the first `Averaging`; the parameters are copied."""
    dtype = jnp.result_type(float)
    return Averaging(jnp.zeros((), jnp.int32), jnp.zeros((), dtype), jax.tree.map(jnp.copy, params))


def averaging_share(averaging):
    """Returns by how much of its way to the parameters the average moves at the next step."""
    return 1 / jnp.maximum(averaging.count, 1).astype(averaging.rate.dtype)


def descend_averaged(transformation, rate, grads, state, params, averaging, averages):
    """Returns (parameters, transformation's state, `Averaging`) after one step of averaged SGD.

    averages: bool; false is plain SGD, whose parameters are their own average. As in PyTorch's
    ASGD with lambd = 0 and t0 = 0, the rate that counts is the one of the step before (the first
    takes its own), and the average leaves the first step out: at step k > 2 it moves by 1 / (k - 1)
    of its way to the parameters.
    """
    late = jnp.where(averaging.count == 0, rate, averaging.rate).astype(averaging.rate.dtype)
    params, state = descend(transformation, late, grads, state, params)
    share = averaging_share(averaging)

    def move(average, w):
        return jnp.where(share == 1, w, average + share.astype(w.dtype) * (w - average))

    averaging = Averaging(
        averaging.count + jnp.asarray(averages, jnp.int32),
        jnp.asarray(rate, averaging.rate.dtype),
        jax.tree.map(move, averaging.average, params),
    )
    return params, state, averaging


def averaging_is_due(losses, patience):
    """Whether plain SGD has come to a halt, by the losses of all evaluations so far, last first.

    It has when the newest is above the best of those more than `patience` evaluations before it.
    Source: arXiv 1708.02182, section 4, in the form of the code of 1806.09055.
    """
    *before, newest = losses
    return len(before) > patience and newest > min(before[:-patience])


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
