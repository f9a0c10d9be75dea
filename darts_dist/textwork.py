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
    weights of the best evaluation, and its loss; best_averages: whether they were averaged;
    rollbacks: how often a divergence was answered by going back to them.
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
            "best_averages": jnp.full((), knobs.average == "always"),
            "rollbacks": jnp.zeros((), jnp.int32),
        }
        averaging = optim.begin_averaging(state.params)
        return dataclasses.replace(state, averaging=averaging, course=course)

    def descend(self, rate, grads, state):
        """Returns (parameters, optimiser's state, averaging) after one step of the weights."""
        rate *= self.config.weights.rollback_rate ** state.course["rollbacks"].astype(rate.dtype)
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

    def weight_step(self, state, stats, grads, metrics, rate):
        """Returns (state, metrics) after SGD; a seed that becomes non-finite goes back if it may.

        metrics gets "rolled_back": bool.
        """
        moved, told = super().weight_step(state, stats, grads, metrics, rate)
        moved, back = self._roll_back(moved, state.alive & ~moved.alive)
        return moved, {**told, "alive": moved.alive, "rolled_back": back}

    def _roll_back(self, state, lost):
        """Returns (State, bool whether it went back): alive again where `lost` and not too often.

        It has the best weights so far (the first ones before any evaluation), and averages if they
        were averaged, anew. Rule: the code of arXiv 1806.09055, which keeps the rate, goes back in
        the text too, and does so without end.
        """
        course = state.course
        back = lost & (course["rollbacks"] < self.config.weights.rollbacks)
        averaging = optim.begin_averaging(course["best"])
        params, averaging, averages = where(
            back,
            (course["best"], averaging, course["best_averages"]),
            (state.params, state.averaging, course["averages"]),
        )
        course = course | {"averages": averages, "rollbacks": course["rollbacks"] + back}
        alive = state.alive | back
        state = dataclasses.replace(
            state, alive=alive, params=params, averaging=averaging, course=course
        )
        return state, back

    def forget(self, back, hidden):
        """Returns what is carried to the next window, f[N, H] by stream: zeros after a rollback."""
        return jax.tree.map(lambda h: jnp.where(back, jnp.zeros_like(h), h), hidden)

    def settle(self, state, sums):
        """Returns (State, bool whether it went back to its best weights) after an evaluation: best
        weights kept, averaging begun if it is due.

        The rule is that of `optim.averaging_is_due`. A loss that is not finite is a divergence.
        """
        course, knobs = state.course, self.config.weights
        loss = sums["loss"] / jnp.maximum(sums["count"], 1)
        finite = state.alive & jnp.isfinite(loss)
        better = finite & (loss < course["best_loss"])
        halted = (loss > course["before"]) & (knobs.average == "when_halted")
        recent = course["recent"]
        settled = course | {
            "averages": course["averages"] | halted,
            "recent": jnp.append(recent[1:], loss),
            "before": jnp.minimum(course["before"], recent[0]),
            "best": where(better, state.averaging.average, course["best"]),
            "best_loss": jnp.where(better, loss, course["best_loss"]),
            "best_averages": jnp.where(better, course["averages"], course["best_averages"]),
        }
        lost = state.alive & ~finite
        state = dataclasses.replace(state, alive=finite, course=where(finite, settled, course))
        return self._roll_back(state, lost)
