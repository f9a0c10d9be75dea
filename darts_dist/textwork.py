"""What one seed of a search or training on texts does, beside `seedwork` and `searchwork`.

Place: layer 3. Averaged SGD begins where plain SGD has come to a halt; each evaluation may lead to
that, and the best weights so far are kept. All of it is part of the State, so that a resumed run
takes it up.
"""

import dataclasses

import jax
import jax.numpy as jnp

from darts_dist import optim
from darts_dist.searchwork import SearchSeed
from darts_dist.seedwork import OneSeed, where


class TextSearchSeed(SearchSeed):
    """The bodies of the programs of a search of recurrent cells.

    capped: whether the factor of clipping is at most 1 where it scales the second-order term.
    """

    def __init__(self, config, model, epoch_steps, *, capped):
        super().__init__(config, model, epoch_steps)
        self.capped = capped

    def clip_virtual(self, grads):
        """Returns (gradients, factor) as the virtual step and its direction take them."""
        return self.clip(grads, capped=self.capped)

    def refresh(self, batch, number):
        """Returns a prepared batch with other masks of dropout; number: of the pass."""
        (tokens, hidden, length, keys, places), targets = batch
        key = jax.random.fold_in(jax.random.wrap_key_data(keys[0]), number)
        keys = jnp.broadcast_to(jax.random.key_data(key), keys.shape)
        return (tokens, hidden, length, keys, places), targets


class TextSeed(OneSeed):
    """The bodies of the programs that train a recurrent cell.

    `State.course`: averages, whether the weights are averaged; recent: losses of the last
    evaluations, the newest last; before: the least of those before them; best, best_loss: the
    weights of the best evaluation, and its loss.
    """

    def make_sgd(self, knobs):
        """Returns plain SGD, without momentum."""
        return optim.sgd(knobs.weight_decay, knobs.clip_norm)

    def init(self, seed):
        """Returns the first State of a seed number."""
        state, knobs = super().init(seed), self.config.weights
        highest = jnp.full((), jnp.inf, self.real)
        course = {
            "averages": jnp.full((), knobs.average == "always"),
            "recent": jnp.full((knobs.patience,), jnp.inf, self.real),
            "before": highest,
            "best": jax.tree.map(jnp.copy, state.params),
            "best_loss": highest,
        }
        averaging = optim.begin_averaging(state.params)
        return dataclasses.replace(state, averaging=averaging, course=course)

    def descend(self, rate, grads, state):
        """Returns (parameters, optimiser's state, averaging) after one step of the weights."""
        return optim.descend_averaged(
            self.sgd,
            rate,
            grads,
            state.weight_opt,
            state.params,
            state.averaging,
            state.course["averages"],
        )

    def trained(self, state):
        """Returns (params, stats) that evaluations are of: the average where there is one."""
        return state.averaging.average, state.stats

    def settle(self, state, sums):
        """Returns the State after an evaluation: best weights kept, averaging begun if it is due.

        The rule is that of `optim.averaging_is_due`.
        """
        course, knobs = state.course, self.config.weights
        loss = sums["loss"] / jnp.maximum(sums["count"], 1)
        better = state.alive & (loss < course["best_loss"])
        halted = (loss > course["before"]) & (knobs.average == "when_halted")
        recent = course["recent"]
        course = {
            "averages": course["averages"] | halted,
            "recent": jnp.append(recent[1:], loss),
            "before": jnp.minimum(course["before"], recent[0]),
            "best": where(better, state.averaging.average, course["best"]),
            "best_loss": jnp.where(better, loss, course["best_loss"]),
        }
        return dataclasses.replace(state, course=where(state.alive, course, state.course))
