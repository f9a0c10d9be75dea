"""The steps of searches and trainings on texts: `steps` and `searchstep` with what texts add."""

import dataclasses

import jax
import numpy as np

from darts_dist.errors import ConfigError
from darts_dist.methods import PRESETS
from darts_dist.methods.hypergradient import keeping
from darts_dist.programs import BATCH, SCALAR, SEED
from darts_dist.searchstep import BilevelStep
from darts_dist.steps import Step
from darts_dist.textmodels import LanguageSearchModel, LanguageTrainModel
from darts_dist.textwork import TextSearchSeed, TextSeed

WORDS = "embedding"  # the parameter that embeds words and reads them out


class TextSearchStep(BilevelStep):
    """The step of a search of recurrent cells; its virtual step clips, as the step of the weights.

    model: a `textmodels.LanguageSearchModel`.
    """

    def __init__(self, config, mesh, model, epoch_steps):
        rules = rules_of(config.method)
        capped = rules["clip_factor"] == "capped"
        one = TextSearchSeed(config, model, epoch_steps, capped=capped)
        super().__init__(config, mesh, one)
        kept = (WORDS,) if rules["virtual_words"] == "keep" else ()
        self.passes = dataclasses.replace(
            self.passes,
            lookahead=keeping(self.passes.lookahead, kept),
            clip=self._add("clip", one.clip_virtual, SEED),
            scale=self._add("scale", one.scale, SEED, SEED),
        )
        self.fresh, self.number = rules["masks"] == "fresh", 0
        if self.fresh:
            self._programs["refresh"] = self._program(
                "refresh", one.refresh, BATCH, SCALAR, gives=BATCH
            )

    def _pass(self, params, stats, alphas, batch, wrt="both"):
        if self.fresh:
            self.number += 1
            batch = self._programs["refresh"](batch, np.int32(self.number))
        return super()._pass(params, stats, alphas, batch, wrt)

    def update(self, state, ready, rate, *, architect=True):
        """Returns what `BilevelStep.update` does."""
        self.number = 0  # of the passes of one step, each with masks of its own
        return super().update(state, ready, rate, architect=architect)


class TextStep(Step):
    """The step of a training of a recurrent cell; one: a `textwork.TextSeed`."""

    def __init__(self, config, mesh, one):
        super().__init__(config, mesh, one)
        self._programs["settle"] = self._program("settle", one.settle, SEED, SEED, donate=(0,))
        self.goes_back = config.weights.rollbacks > 0
        if self.goes_back:
            self._programs["forget"] = self._program(
                "forget", one.forget, SEED, BATCH, gives=BATCH, donate=(1,)
            )

    def _move_weights(self, state, here, rate, carried):
        state, metrics = super()._move_weights(state, here, rate, carried)
        return self._forget(state, metrics.pop("rolled_back")), metrics

    def _forget(self, state, back):
        if not self.goes_back:
            return state
        return dataclasses.replace(state, hidden=self._programs["forget"](back, state.hidden))

    def settle(self, blocks, sums):
        """Returns the blocks after an evaluation with these sums of theirs; they are used up."""
        moved = []
        for state, own in zip(blocks, sums, strict=True):
            hidden = state.hidden
            state, back = self._programs["settle"](dataclasses.replace(state, hidden={}), own)
            moved.append(self._forget(dataclasses.replace(state, hidden=hidden), back))
        return tuple(moved)

    def _trace_update(self, state, ready):
        state = super()._trace_update(state, ready)
        loss = jax.ShapeDtypeStruct((self.mesh.shape["seed"],), self.one.real)
        self._programs["settle"](
            dataclasses.replace(state, hidden={}), {"loss": loss, "count": loss}
        )
        return state


def rules_of(method):
    """Returns how a search's architecture step treats clipping, words and masks, by knob."""
    preset = PRESETS[method.preset]
    return {
        "clip_factor": method.clip_factor or preset.clip_factor,
        "virtual_words": method.virtual_words or preset.virtual_words,
        "masks": method.masks or preset.masks,
    }


def make_search(config, mesh, words, epoch_steps):
    """Returns the step of a search on texts of so many words; arguments as of the classes."""
    return TextSearchStep(config, mesh, LanguageSearchModel(config, words), epoch_steps)


def make_training(config, mesh, value, words, epoch_steps):
    """Returns the step of a training; value: an `RnnGenotype`.

    Raises ConfigError where a device's columns do not divide into the parts asked for.
    """
    parts, local = config.data.accumulate, config.data.global_batch // mesh.shape["data"]
    if local % parts:
        raise ConfigError(
            f"data.accumulate={parts} does not divide the {local} columns of a device; use a "
            f"divisor of {local}"
        )
    model = LanguageTrainModel(config, value, words)
    return TextStep(config, mesh, TextSeed(config, model, epoch_steps, parts))
