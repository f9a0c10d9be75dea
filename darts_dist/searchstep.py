"""The step of a search: alphas move first, then weights, as in the original.

It adds to `steps.Step` the passes that a hypergradient is made of, and their order.
"""

import dataclasses

from darts_dist import optim
from darts_dist.data.augment import Recipe
from darts_dist.methods import PRESETS
from darts_dist.methods.hypergradient import HYPERGRADIENTS, Gradient, Passes
from darts_dist.models import SearchModel
from darts_dist.programs import BATCH, SEED
from darts_dist.searchwork import SearchSeed
from darts_dist.steps import Step


class BilevelStep(Step):
    """The programs of one search and the order in which they run.

    config: of a search.  mesh: ("seed", "data").  one: `searchwork.SearchSeed`.
    """

    streams = ("train", "valid")

    def __init__(self, config, mesh, one):
        super().__init__(config, mesh, one)
        method, preset = config.method, PRESETS[config.method.preset]
        name = method.hypergradient or preset.hypergradient
        self.hypergradient = HYPERGRADIENTS[name]
        self.weight_wrt = "params" if name == "first" or one.model.penalises else "both"
        for wrt in ("alphas", "both"):
            self._gradients[wrt] = self._gradient(wrt)
        self.passes = Passes(
            gradient=self._pass,
            lookahead=self._add("lookahead", one.lookahead, SEED, SEED, SEED, self.rates),
            product=self._add("product", one.product, SEED, SEED, SEED, SEED, BATCH),
            perturb=self._add("perturb", one.perturb, SEED, SEED),
            quotient=self._add("quotient", one.quotient, SEED, SEED, SEED),
        )
        taken = (SEED, SEED, SEED, SEED, SEED, self.rates)
        self._add("alpha_step", one.alpha_step, *taken, donate=(1, 2))

    def _add(self, name, body, *takes, donate=()):
        self._programs[name] = self._program(name, body, *takes, donate=donate)
        return self._programs[name]

    def _pass(self, params, stats, alphas, batch, wrt="both"):
        out = self._gradients[wrt](params, stats, alphas, batch)
        return Gradient(**out)

    def update(self, state, ready, rate, *, architect=True):
        """Returns (state, metrics) after one step of one block on prepared batches at a learning
        rate.

        architect: whether alphas move.  Metrics, f[G] each: loss and accuracy (per cent) on the
        training batch before the weight step, grad_norm before clipping, alive; with `architect`
        valid_loss, valid_accuracy (of the batch that the
        alpha gradient was taken on), alpha_grad_norm, and the tree alpha_grads.
        """
        rate, stats, extra, carried = self._rate(rate), state.stats, {}, {}
        if architect:
            state, stats, extra, carried = self.move_alphas(state, ready, rate)
        at = state.params, stats, state.alphas, ready["train"]
        here = self._gradients[self.weight_wrt](*at)
        carried["train"] = here["carried"]
        state, metrics = self._move_weights(state, here, rate, carried)
        return state, metrics | extra

    def move_alphas(self, state, ready, rate):
        """Returns (state, statistics for the step of the weights, metrics, what is carried on by
        stream) after the step of one block's alphas at a learning rate of its weights.
        """
        rate = self._rate(rate)
        hyper = self.hypergradient(
            self.passes,
            state.params,
            state.stats,
            state.alphas,
            optim.momentum_buffer(state.weight_opt),
            rate,
            ready["train"],
            ready["valid"],
        )
        alive, alphas, alpha_opt, metrics = self._programs["alpha_step"](
            state.alive, state.alphas, state.alpha_opt, hyper.direct, hyper.implicit, rate
        )
        moved = self.config.method.architect_statistics == "move"
        metrics |= {f"valid_{name}": value for name, value in hyper.metrics.items()}
        return (
            dataclasses.replace(state, alive=alive, alphas=alphas, alpha_opt=alpha_opt),
            hyper.stats if moved else state.stats,
            metrics,
            {"valid": hyper.carried},
        )

    def _trace_update(self, state, ready):
        if self.config.method.warmup_epochs:
            self.update(state, ready, self._traced_rate(), architect=False)
        return self.update(state, ready, self._traced_rate())[0]


class SearchStep(BilevelStep):
    """The step of a search over pictures.

    config: a `Config`.  mesh: ("seed", "data").  classes: that the network tells apart.
    mean, std: of the pictures, a number a channel, for values scaled to 0..1.
    epoch_steps: steps after which the totals start anew.
    layout: a name of `nets.layout.LAYOUTS`; None for the fastest on the default backend.
    """

    def __init__(self, config, mesh, *, classes, mean, std, epoch_steps, layout=None):
        recipe = Recipe.of(config.data, tuple(mean), tuple(std))
        model = SearchModel(config, classes, recipe, layout)
        super().__init__(config, mesh, SearchSeed(config, model, epoch_steps))
