"""The step of a search: alphas move first, then weights, as in the original.

It adds to `steps.Step` the passes that a hypergradient is made of, and their order.
"""

import dataclasses

import numpy as np

from darts_dist import optim
from darts_dist.data.augment import Recipe
from darts_dist.methods import PRESETS
from darts_dist.methods.hypergradient import HYPERGRADIENTS, Gradient, Passes
from darts_dist.models import SearchModel
from darts_dist.programs import BATCH, SCALAR, SEED
from darts_dist.searchwork import SearchSeed
from darts_dist.steps import Step


class SearchStep(Step):
    """The programs of one search and the order in which they run.

    config: a `Config`.  mesh: ("seed", "data").  classes: that the network tells apart.
    mean, std: of the pictures, a number a channel, for values scaled to 0..1.
    epoch_steps: steps after which the totals start anew.
    layout: a name of `nets.layout.LAYOUTS`; None for the fastest on the default backend.
    """

    streams = ("train", "valid")

    def __init__(self, config, mesh, *, classes, mean, std, epoch_steps, layout=None):
        data = config.data
        recipe = Recipe(data.crop_padding_px, data.flip, data.cutout_px, tuple(mean), tuple(std))
        one = SearchSeed(config, SearchModel(config, classes, layout), recipe, epoch_steps)
        super().__init__(config, mesh, one)
        name = config.method.hypergradient or PRESETS[config.method.preset].hypergradient
        self.hypergradient = HYPERGRADIENTS[name]
        self.weight_wrt = "params" if name == "first" else "both"
        gradient = (SEED, SEED, SEED, BATCH)
        for wrt in ("alphas", "both"):
            self._gradients[wrt] = self._program(f"gradient_{wrt}", one.gradient(wrt), *gradient)
        self.passes = Passes(
            gradient=self._pass,
            lookahead=self._add("lookahead", one.lookahead, SEED, SEED, SEED, SCALAR),
            product=self._add("product", one.product, SEED, SEED, SEED, SEED, BATCH),
            perturb=self._add("perturb", one.perturb, SEED, SEED),
            quotient=self._add("quotient", one.quotient, SEED, SEED, SEED),
        )
        taken = (SEED, SEED, SEED, SEED, SEED, SCALAR)
        self._add("alpha_step", one.alpha_step, *taken, donate=(1, 2))

    def _add(self, name, body, *takes, donate=()):
        self._programs[name] = self._program(name, body, *takes, donate=donate)
        return self._programs[name]

    def _pass(self, params, stats, alphas, batch, wrt="both"):
        out = self._gradients[wrt](params, stats, alphas, batch)
        return Gradient(out["params"], out["alphas"], out["stats"], out["metrics"])

    def update(self, state, ready, rate, *, architect=True):
        """Returns (state, metrics) after one step of one block on prepared batches at a learning
        rate.

        architect: whether alphas move.  Metrics, f[G] each: loss and accuracy (per cent) on the
        training batch before the weight step, grad_norm before clipping, alive; with `architect`
        valid_loss, valid_accuracy (of the batch that the
        alpha gradient was taken on), alpha_grad_norm, and the tree alpha_grads.
        """
        rate = np.asarray(rate, self.one.real)
        stats, extra, train = state.stats, {}, ready["train"]
        if architect:
            momentum = optim.momentum_buffer(state.weight_opt)
            hyper = self.hypergradient(
                self.passes,
                state.params,
                stats,
                state.alphas,
                momentum,
                rate,
                train,
                ready["valid"],
            )
            alive, alphas, alpha_opt, extra = self._programs["alpha_step"](
                state.alive, state.alphas, state.alpha_opt, hyper.direct, hyper.implicit, rate
            )
            if self.config.method.architect_statistics == "move":
                stats = hyper.stats
            extra |= {f"valid_{name}": value for name, value in hyper.metrics.items()}
            state = dataclasses.replace(state, alive=alive, alphas=alphas, alpha_opt=alpha_opt)
        here = self._pass(state.params, stats, state.alphas, train, self.weight_wrt)
        state, metrics = self._programs["weight_step"](
            state, here.stats, here.params, here.metrics, rate
        )
        return state, metrics | extra

    def _trace_update(self, state, ready):
        if self.config.method.warmup_epochs:
            self.update(state, ready, 0.1, architect=False)
        return self.update(state, ready, 0.1)[0]
