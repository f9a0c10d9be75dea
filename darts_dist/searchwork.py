"""What a search does for one seed besides training weights: second-order terms, the alphas' step.

Like `seedwork`, whose bodies it adds to: pure functions, averaged over the replicas along "data".
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from darts_dist import optim
from darts_dist.programs import vary
from darts_dist.seedwork import OneSeed, where


class SearchSeed(OneSeed):
    """The bodies of the programs of a search."""

    def __init__(self, config, model, epoch_steps):
        super().__init__(config, model, epoch_steps)
        alphas = config.alphas
        self.adam = optim.adam(
            alphas.betas, alphas.epsilon, alphas.weight_decay, alphas.epsilon_placement
        )

    def init(self, seed):
        """Returns the first State of a seed number."""
        state = super().init(seed)
        return dataclasses.replace(state, alpha_opt=self.adam.init(state.alphas))

    def product(self, params, stats, alphas, vector, batch):
        """Returns d/d alphas of the loss's derivative along `vector`, and moved statistics."""
        params, alphas, vector = vary((params, alphas, vector))
        if not self.synced:
            stats = vary(stats)

        def along(alphas):
            def loss(params):
                return self._loss(params, stats, alphas, batch)

            _, derivative, (moved, *_) = jax.jvp(loss, (params,), (vector,), has_aux=True)
            return derivative, moved

        product, moved = jax.grad(along, has_aux=True)(alphas)
        moved, product = self._mean(moved, product)
        return product, moved

    def lookahead(self, params, momentum, grads, rate):
        """Returns the weights one step of SGD on, without clipping."""
        mu, decay = self.config.weights.momentum, self.config.weights.weight_decay

        def move(w, m, g):
            return w - rate.astype(w.dtype) * (mu * m + g + decay * w)

        return jax.tree.map(move, params, momentum, grads)

    def clip(self, grads, *, capped=True):
        """Returns (gradients, factor) of `optim.clip`, as the step of the weights clips."""
        return optim.clip(grads, self.config.weights.clip_norm, capped=capped)

    def scale(self, tree, factor):
        """Returns a tree times a factor."""
        return jax.tree.map(lambda x: factor.astype(x.dtype) * x, tree)

    def _radius(self, vector):
        return self.config.method.radius / optax.tree.norm(vector)

    def perturb(self, params, vector):
        """Returns the weights moved along `vector` by the method's radius, and against it."""
        radius = self._radius(vector)

        def moved(sign):
            scale = sign * radius
            return jax.tree.map(lambda w, v: w + scale.astype(w.dtype) * v, params, vector)

        return moved(1), moved(-1)

    def quotient(self, plus, minus, vector):
        """Returns the central difference of two alpha gradients."""
        radius = self._radius(vector)
        return jax.tree.map(lambda p, m: (p - m) / (2 * radius), plus, minus)

    def alpha_step(self, alive, alphas, opt, direct, implicit, rate):
        """Returns (alive, alphas, optimiser, norm and gradients) after Adam; a dead seed stays."""
        grads = direct
        if implicit is not None:
            grads = jax.tree.map(lambda d, i: d - rate.astype(d.dtype) * i, direct, implicit)
        norm = optax.tree.norm(grads)
        alive = alive & jnp.isfinite(norm)
        moved = optim.descend(self.adam, self.config.alphas.learning_rate, grads, opt, alphas)
        alphas, opt = where(alive, moved, (alphas, opt))
        return alive, alphas, opt, {"alpha_grad_norm": norm, "alpha_grads": grads}
