"""Architecture steps and trajectories of recurrent cells, by the bodies that a search runs for one
seed on one device.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from darts_dist import cluster
from darts_dist.config import TextConfig
from darts_dist.data import windows
from darts_dist.interop_recurrent import recurrent_from_torch, recurrent_to_torch
from darts_dist.methods.hypergradient import HYPERGRADIENTS, Gradient, Passes, keeping
from darts_dist.nets.dropout import MASKS
from darts_dist.programs import BATCH, SCALAR, SEED, Program
from darts_dist.spaces import derive, rnn
from darts_dist.textmodels import LanguageSearchModel
from darts_dist.textwork import TextSearchSeed
from parity.steps import ADAM, first_seed, norm, noted
from parity.vectors import under

HYPERGRADIENT = {
    "fd": "finite_difference",
    "fd_tied_fix": "finite_difference",
    "exact": "exact",
    "none": "first",
}
BETAS = (0.9, 0.999)
GIVES = {
    **dict.fromkeys(("params", "alphas", "stats", "metrics"), SEED),
    "carried": BATCH,
}
GROUPS = {"unrolled": ("embedding",), "unrolled_tied_fix": ()}  # what the virtual step leaves alone


def config_of(case, bits):
    """Returns the config of a search without dropout, of a case's settings."""
    settings = case.settings
    nodes = derive.nodes_of(len(case.inputs["alphas"]), "rnn")
    tree = {
        "network": {"channels": settings["nhid"], "nodes": nodes},
        "data": {"global_batch": 1},  # weighs sums that are not looked at
        "precision": {"compute": f"float{bits}"},
        "weights": {"weight_decay": settings["wdecay"], "clip_norm": settings["clip"]},
        "alphas": {
            "learning_rate": settings["arch_lr"],
            "betas": BETAS,
            "weight_decay": settings["arch_wdecay"],
            "epsilon_placement": ADAM[settings.get("adam", "0.3.1")],
        },
        "regularisation": {
            "activation": settings["alpha"],
            "temporal": settings["beta"],
            **{f"dropout_{name}": 0.0 for name in MASKS},
        },
    }
    return msgspec.convert(tree, TextConfig)


class Run:
    """A search of one seed on one device, from the weights, statistics and alphas of a case."""

    def __init__(self, case, bits):
        """Compiles nothing yet."""
        settings = case.settings
        self.case, self.dtype, self.mesh = case, f"float{bits}", cluster.make_mesh(1, 1, 1)
        config = config_of(case, bits)
        self.model = LanguageSearchModel(config, settings["ntoken"])
        one = TextSearchSeed(config, self.model, 1, capped=False)
        gradient = (SEED, SEED, SEED, BATCH)
        self.init = self.program("init", one.init, SEED)
        self.gradient = self.program("gradient", one.gradient("both"), *gradient, gives=GIVES)
        self.penalised = self.program(
            "penalised", one.gradient("both", penalised=True), *gradient, gives=GIVES
        )
        self.penalty = self.program("penalty", self.penalty_of, *gradient)
        taken = (SEED, SEED, SEED, SEED, SEED, SCALAR)
        self.alpha_step = self.program("alpha_step", one.alpha_step, *taken)
        taken = (SEED, SEED, SEED, SEED, SCALAR)
        self.weight_step = self.program("weight_step", one.weight_step, *taken)
        self.passes = Passes(
            gradient=self.take,
            lookahead=self.program("lookahead", one.lookahead, SEED, SEED, SEED, SCALAR),
            product=self.program("product", one.product, SEED, SEED, SEED, SEED, BATCH),
            perturb=self.program("perturb", one.perturb, SEED, SEED),
            quotient=self.program("quotient", one.quotient, SEED, SEED, SEED),
            clip=self.program("clip", one.clip_virtual, SEED),
            scale=self.program("scale", one.scale, SEED, SEED),
        )

    def program(self, name, body, *takes, gives: Any = SEED):
        """Returns a body of one seed, mapped over the mesh."""

        def run(*args):
            return body(*args)

        return Program(name, self.mesh, run, takes, gives)

    def penalty_of(self, params, stats, alphas, batch):
        """Returns what the loss of the weights has besides that of words."""
        outputs, _ = self.model.outputs(params, stats, alphas, batch[0], train=True)
        return jax.lax.pmean(self.model.penalties(outputs).mean(), "data")

    def forward(self, *at):
        """Returns the hidden state after a window."""
        return self.gradient(*at)["carried"]

    def take(self, params, stats, alphas, batch, wrt="both"):
        """Returns the Gradient of one pass."""
        del wrt
        return Gradient(**self.gradient(params, stats, alphas, batch))

    def state(self):
        """Returns the first state."""
        inputs = self.case.inputs
        params, stats = recurrent_from_torch(under(inputs, "state/"))
        trees = params, stats, {rnn.CELL: inputs["alphas"]}
        params, stats, alphas = jax.tree.map(lambda x: jnp.asarray(x, self.dtype)[None], trees)
        state = self.init(np.zeros(1, np.int32))
        return dataclasses.replace(state, params=params, stats=stats, alphas=alphas)

    def batch(self, tokens, targets, hidden, length):
        """Returns one batch of arrays [T, N], hidden f[N, H] and a number of words."""
        count = len(hidden)
        fed = (
            jnp.asarray(tokens, jnp.int32).T,
            jnp.asarray(hidden, self.dtype),
            jnp.full(count, length, jnp.int32),
            jnp.zeros((count, 2), jnp.uint32),
            jnp.arange(count),
        )
        return jax.tree.map(lambda x: x[None], (fed, jnp.asarray(targets, jnp.int32).T))

    def hypergradient(self, state, train, valid, rate, name, kept=("embedding",)):
        """Returns (Hypergradient, what its passes computed); kept: what the virtual step leaves."""
        seen = {}
        passes = dataclasses.replace(self.passes, lookahead=keeping(self.passes.lookahead, kept))
        momentum = jax.tree.map(jnp.zeros_like, state.params)
        at = state.params, state.stats, state.alphas, momentum
        rate = np.asarray(rate, self.dtype)
        return HYPERGRADIENTS[name](noted(passes, seen), *at, rate, train, valid), seen

    def named(self, params):
        """Returns names -> arrays of a tree like the parameters."""
        return recurrent_to_torch(first_seed(params))

    def statistics(self, params, stats):
        """Returns names -> running statistics alone."""
        both = recurrent_to_torch(first_seed(params), first_seed(stats))
        return {name: both[name] for name in both.keys() - self.named(params).keys()}


def architect(case, bits):
    """Returns the outputs of an `architect` case: first order, second with both derivatives."""
    run, settings, inputs = Run(case, bits), case.settings, case.inputs
    state, rate = run.state(), np.asarray(settings["eta"], f"float{bits}")
    train, valid = (
        run.batch(
            inputs[f"tokens_{name}"],
            inputs[f"targets_{name}"],
            inputs[f"hidden_{name}"][0],
            len(inputs[f"tokens_{name}"]),
        )
        for name in ("train", "valid")
    )

    def alpha_grads(hyper):
        out = run.alpha_step(
            state.alive, state.alphas, state.alpha_opt, hyper.direct, hyper.implicit, rate
        )
        return first_seed(out[3]["alpha_grads"])[rnn.CELL]

    hyper, _ = run.hypergradient(state, train, valid, rate, "first")
    found = {
        "first/grad_alphas": alpha_grads(hyper),
        "first/hidden_out": run.forward(state.params, state.stats, state.alphas, valid),
    }
    groups = {"first/stats_after": run.statistics(state.params, hyper.stats)}
    for group, kept in GROUPS.items():
        hyper, seen = run.hypergradient(state, train, valid, rate, "finite_difference", kept)
        other, more = run.hypergradient(state, train, valid, rate, "exact", kept)
        (ahead,) = seen["lookahead"]
        (_, factor), (vector, _) = seen["clip"]
        out = {
            "grad_alphas": alpha_grads(hyper),
            "grad_exact_alphas": alpha_grads(other),
            "direct_alphas": first_seed(hyper.direct)[rnn.CELL],
            "implicit_fd_alphas": first_seed(seen["quotient"][0])[rnn.CELL],
            "implicit_exact_alphas": first_seed(more["product"][0][0])[rnn.CELL],
            "clip_coef": factor[0],
            "valid_loss": hyper.metrics["loss"][0],
            "vector_norm_before_clip": norm(first_seed(seen["gradient"][1].params)),
            "vector_norm": norm(first_seed(vector)),
            "hidden_out": run.forward(ahead, state.stats, state.alphas, valid),
        }
        found |= {f"{group}/{name}": value for name, value in out.items()}
        groups |= {
            f"{group}/stats_after": run.statistics(state.params, hyper.stats),
            f"{group}/theta": run.named(ahead),
            f"{group}/vector": run.named(vector),
        }
    return found | {f"{g}/{k}": v for g, values in groups.items() for k, v in values.items()}


def trajectory(case, bits):
    """Returns the outputs of a trajectory: what every step showed, and the state at the end.

    All windows are padded to one length.
    """
    run, settings, inputs = Run(case, bits), case.settings, case.inputs
    longest, texts = settings["bptt"], [inputs["train_data"], inputs["search_data"]]
    state, position, shown = run.state(), 0, []
    hidden = [np.zeros((texts[0].shape[1], settings["nhid"]))] * 2
    kept = () if settings["implicit"] == "fd_tied_fix" else ("embedding",)
    for wanted in settings["seq_lens"]:
        own = windows.Window(position, min(wanted, len(texts[0]) - 1 - position), wanted)
        pair = own, windows.opposite(own, len(texts[1]), longest)
        train, valid = (
            run.batch(cut["tokens"].T, cut["targets"].T, before, cut["length"])
            for cut, before in zip(
                (windows.cut(*one, longest) for one in zip(texts, pair, strict=True)),
                hidden,
                strict=True,
            )
        )
        rate = np.asarray(settings["lr"] * wanted / longest, f"float{bits}")
        name = HYPERGRADIENT[settings["implicit"]]
        hyper, seen = run.hypergradient(state, train, valid, rate, name, kept)
        _, alphas, alpha_opt, about = run.alpha_step(
            state.alive, state.alphas, state.alpha_opt, hyper.direct, hyper.implicit, rate
        )
        ahead = seen["lookahead"][0] if "lookahead" in seen else state.params
        after_valid = run.forward(ahead, state.stats, state.alphas, valid)
        state = dataclasses.replace(state, alphas=alphas, alpha_opt=alpha_opt, stats=hyper.stats)
        at = state.params, state.stats, state.alphas, train
        here, penalty = run.penalised(*at), run.penalty(*at)
        hidden = [here["carried"][0], after_valid[0]]
        state, metrics = run.weight_step(
            state, here["stats"], here["params"], here["metrics"], rate
        )
        shown.append(
            {
                "loss": (metrics["loss"] + penalty)[0],
                "raw_loss": metrics["loss"][0],
                "grad_norm_before_clip": metrics["grad_norm"][0],
                "alphas": alphas[rnn.CELL][0],
                # The weight step's backward pass adds onto it there, where the vectors read it.
                "grad_alphas": (about["alpha_grads"][rnn.CELL] + here["alphas"][rnn.CELL])[0],
                "hidden": hidden[0][None],
                "hidden_valid": hidden[1][None],
                "theta_norm": norm(first_seed(state.params)),
                "lr_used": rate,
            }
        )
        position += wanted
    found = {name: np.stack([np.asarray(one[name]) for one in shown]) for name in shown[0]}
    groups = {
        "theta_final": run.named(state.params),
        "stats_final": run.statistics(state.params, state.stats),
    }
    return found | {f"{g}/{k}": v for g, values in groups.items() for k, v in values.items()}
