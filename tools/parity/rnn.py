"""Recurrent networks: their passes and averaged SGD here, architecture steps and trajectories in
`rnn_steps`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist import genotype as genotypes
from darts_dist import losses, optim
from darts_dist.data import windows
from darts_dist.data.text import columns
from darts_dist.interop_recurrent import recurrent_from_torch, recurrent_to_torch
from darts_dist.methods.relaxation import softmax
from darts_dist.nets.drop_path import factors
from darts_dist.spaces import derive, rnn
from parity import rnn_steps
from parity.rnn_genotypes import genotype
from parity.steps import norm
from parity.vectors import check_case, exact, guarded, read_cases, side_by_side, under

STEM = "rnn"
MASKS = {  # here: the original's
    "embedding": "dropoute",
    "input": "dropouti",
    "cell_input": "dropoutx",
    "hidden": "dropouth",
    "output": "dropout",
}
LOSSES = ("log_prob", "hidden_out", "rnn_hs", "dropped_rnn_hs", "loss", "valid_loss", "perplexity")
TOLERANCE = {  # (losses and logits, running statistics, gradients and everything else)
    64: (1e-8, 1e-8, 1e-8),
    32: (1e-4, 1e-5, 1e-3),
}
TOY = 1e-12  # optimisers on toys


def tolerance(kind, bits, name):
    """Returns the tolerance of an output of a case of some kind."""
    if kind == "asgd":
        return TOY
    if name == "batchified":
        return 0.0
    outputs, statistics, rest = TOLERANCE[bits]
    if "stats_after/" in name or "stats_final/" in name:
        return statistics
    return outputs if name.rsplit("/", 1)[-1].startswith(LOSSES) else rest


def check(directory):
    """Yields the rows of all cases."""
    yield from side_by_side(check_one, read_cases(directory, STEM))


def check_one(case):
    """Yields the rows of one case."""
    kind = case.settings["kind"]
    if kind == "forward":
        yield from guarded(STEM, case.name, "", functools.partial(_names, case))

    def compute(_, bits):
        return RUNS[kind](case, bits)

    yield from check_case(
        STEM, case, lambda bits: ("",), compute, functools.partial(tolerance, kind)
    )


def _names(case):
    """Returns rows for what the settings say: names in order, and the genotype of the alphas."""
    params, _ = recurrent_from_torch(under(case.inputs, "state/"))
    found = {"param_names": list(recurrent_to_torch(params))}
    if "alphas" in case.inputs:
        found["genotype_derived"] = genotype(case.inputs["alphas"])
    return [
        exact(STEM, case.name, "", name, value, case.settings[name])
        for name, value in found.items()
        if name in case.settings
    ]


def model(case, bits):
    """Returns (apply, params, stats, weights or None) of a case's network."""
    settings, dtype = case.settings, jnp.dtype(f"float{bits}")
    sizes = {"words": settings["ntoken"], "width": settings["nhid"], "compute": dtype}
    trees = recurrent_from_torch(under(case.inputs, "state/"))
    params, stats = jax.tree.map(lambda x: jnp.asarray(x, dtype), trees)
    if settings["net"] == "search":
        alphas = jnp.asarray(case.inputs["alphas"], dtype)
        nodes = derive.nodes_of(len(alphas), "rnn")
        _, apply = rnn.build(**sizes, nodes=nodes)
        return apply, params, stats, {rnn.CELL: alphas}
    _, apply = rnn.build_network(genotypes.load(settings["genotype"], "rnn"), **sizes)
    return apply, params, stats, None


def forward(case, bits):
    """Returns the outputs of a `forward` or `masks` case: passes in training and evaluation."""
    settings, dtype = case.settings, f"float{bits}"
    apply, params, stats, alphas = model(case, bits)
    tokens, targets = (jnp.asarray(case.inputs[name]) for name in ("tokens", "targets"))
    hidden = jnp.asarray(case.inputs["hidden"][0], dtype)
    masks = {
        ours: factors(_flat(case.inputs[f"mask/{theirs}"]), settings["dropouts"][theirs])
        for ours, theirs in MASKS.items()
        if f"mask/{theirs}" in case.inputs
    }

    def loss(params, alphas, regularised, train):
        weights = None if alphas is None else softmax(alphas)
        given = masks if train else None
        out, moved = apply(params, stats, tokens, hidden, weights, given, train=train)
        value = losses.sequence_cross_entropy(out.logits, targets).mean()
        if regularised:
            value += settings["alpha"] * losses.activation_penalty(out.dropped).mean()
            value += settings["beta"] * losses.temporal_penalty(out.raw).mean()
        return value, (out, moved)

    @jax.jit
    def passes(params, alphas):
        wrt = (0,) if alphas is None else (0, 1)
        take = jax.value_and_grad(loss, wrt, has_aux=True)
        return (
            loss(params, alphas, False, False),
            take(params, alphas, False, True),
            take(params, alphas, True, True),
        )

    evaluated, (trained, grads), ((value, _), regularised) = passes(params, alphas)
    found = {"loss_regularized": value, "grad_norm_regularized": norm(regularised[0])}
    for name, (mean, (out, _)) in (("eval", evaluated), ("train", trained)):
        found |= {
            f"log_prob_{name}": jax.nn.log_softmax(out.logits),
            f"hidden_out_{name}": out.hidden[None],
            f"loss_{name}": mean,
        }
    out, moved = trained[1]
    found |= {"rnn_hs": out.raw, "dropped_rnn_hs": out.dropped}
    if alphas is not None:
        found["grad_alphas"] = grads[1][rnn.CELL]
        named = recurrent_to_torch(grads[0], moved)
        statistics = named.keys() - recurrent_to_torch(grads[0]).keys()
        found |= {f"stats_after/{name}": named[name] for name in statistics}
    for name, own in (("grad", grads[0]), ("grad_regularized", regularised[0])):
        found |= {f"{name}/{key}": value for key, value in recurrent_to_torch(own).items()}
    return found


def _flat(mask):
    """A mask of words f[V, 1] or of examples f[1, N, H] or f[N, H], as it is here."""
    return mask[:, 0] if mask.shape[-1] == 1 else mask.reshape(mask.shape[-2:])


def evaluate(case, bits):
    """Returns the outputs of an `evaluate` case: a text in columns, window after window."""
    settings, dtype = case.settings, f"float{bits}"
    apply, params, stats, _ = model(case, bits)
    text = columns(case.inputs["stream"].astype(np.int32), settings["batch_size"])

    @jax.jit
    def one(hidden, window):
        tokens, targets, length = window["tokens"].T, window["targets"].T, window["length"]
        out, _ = apply(params, stats, tokens, hidden, None, None, length, train=False)
        return out.hidden, losses.sequence_cross_entropy(out.logits, targets, length).mean()

    hidden = jnp.zeros((settings["batch_size"], settings["nhid"]), dtype)
    means, total = [], 0.0
    for window in windows.evaluation_windows(text, settings["bptt"]):
        hidden, mean = one(hidden, window)
        means.append(float(mean))
        total += float(mean) * window["length"] * text.shape[1]
    loss = windows.mean_loss(total, *text.shape, original=True)
    return {
        "batchified": text,
        "loss_per_batch": np.array(means),
        "loss": loss,
        "perplexity": windows.perplexity(loss),
    }


def asgd(case, bits):
    """Returns the outputs of the `asgd` case: averaged SGD on a parabola, step after step."""
    settings, dtype = case.settings, f"float{bits}"
    start, curvature, b = (jnp.asarray(case.inputs[n], dtype) for n in ("p0", "curvature", "b"))
    transformation = optim.sgd(settings["weight_decay"], 0)
    found = {}
    for group, varying in (("constant_lr", False), ("varying_lr", True)):
        params, state, shown = start, transformation.init(start), []
        averaging = optim.begin_averaging(params)
        for length in settings["seq_lens"][: settings["steps"]]:
            rate = settings["lr"] * (length / settings["bptt"] if varying else 1)
            params, state, averaging = optim.descend_averaged(
                transformation, rate, curvature * params - b, state, params, averaging, True
            )
            shown.append(
                {
                    "p": params,
                    "ax": averaging.average,
                    "eta": averaging.rate,
                    "mu": optim.averaging_share(averaging),
                }
            )
        found |= {f"{group}/{k}": np.stack([np.asarray(one[k]) for one in shown]) for k in shown[0]}
    return found


RUNS = {
    "forward": forward,
    "masks": forward,
    "evaluate": evaluate,
    "architect": rnn_steps.architect,
    "trajectory": rnn_steps.trajectory,
    "asgd": asgd,
}
