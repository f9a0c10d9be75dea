"""Pieces of training: schedules, losses, scores, cutout, clipping, drop-path, optimisers, means."""

import types

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax

from darts_dist import optim, tellings
from darts_dist.config import Config
from darts_dist.data import augment, sources
from darts_dist.losses import cross_entropy, is_among
from darts_dist.models import PictureModel
from darts_dist.nets import drop_path
from darts_dist.nets.layout import ChannelsLast
from darts_dist.seedwork import OneSeed
from parity.vectors import (
    Row,
    VectorError,
    compare,
    exact,
    guarded,
    images,
    read_arrays,
    read_json,
    under,
)

STEM = "train_pieces"
TOLERANCE = 1e-12
SCHEDULES = {
    "cosine": lambda s: optim.cosine(s["lr"], s["lr_min"], s["epochs"]),
    "step": lambda s: optim.step(s["lr"], s["gamma"], s["period"]),
    "droppath": lambda s: optim.ramp(s["drop_path_prob"], s["epochs"]),
}
EPSILON = 1e-8
ADAMS = {  # rate, betas, weight decay and placement of epsilon in both of the original's searches
    "adam_031_arch": (3e-4, (0.5, 0.999), 1e-3, "original"),
    "adam_031_rnn_arch": (3e-3, (0.9, 0.999), 1e-3, "original"),
    "adam_modern_arch": (3e-4, (0.5, 0.999), 1e-3, "modern"),
}
SGD = (0.025, 0.9, 3e-4)  # rate, momentum, weight decay
CONSTANTS = {"CIFAR_MEAN": sources.CIFAR10_MEAN, "CIFAR_STD": sources.CIFAR10_STD}


def check(directory):
    """Yields the rows of all pieces, in float64."""
    settings, arrays = read_json(directory, STEM), read_arrays(directory, STEM)
    inputs, outputs = under(arrays, "in/"), under(arrays, "out/")
    strangers = {name.partition("/")[0] for name in outputs} - PIECES.keys()
    if strangers:
        raise VectorError(f"{STEM}.npz holds outputs of {sorted(strangers)}; nothing covers them")
    for piece, compute in PIECES.items():

        def rows(piece=piece, compute=compute):
            wanted = under(outputs, f"{piece}/")
            if not wanted:
                return [Row(STEM, piece, "float64", "(outputs)", float("inf"), 0.0, "missing")]
            with jax.enable_x64(True):
                found = compute(settings, {k: _wide(v) for k, v in inputs.items()})
            limit = 0.0 if piece == "cutout" else TOLERANCE
            return compare(STEM, piece, "float64", found, wanted, lambda _: limit)

        yield from guarded(STEM, piece, "float64", rows)
    for name, value in CONSTANTS.items():
        yield exact(STEM, name, "", "values", list(value), settings["constants"][name])


def _wide(v):
    return jnp.asarray(v, jnp.float64 if v.dtype == np.float32 else v.dtype)


def schedules(settings, _):
    """Returns the value of each schedule in every epoch."""
    return {
        name: np.array([SCHEDULES[one["kind"]](one)(epoch) for epoch in range(one["epochs"])])
        for name, one in settings["schedules"].items()
    }


def losses(settings, inputs):
    """Returns mean losses with and without smoothing, and their gradients by the logits."""
    logits, targets = inputs["ls/logits"], inputs["ls/targets"]
    found = {}
    for share in (None, *settings["label_smooth_eps"]):
        own = () if share is None else (share,)
        loss, grad = jax.value_and_grad(lambda x, own=own: cross_entropy(x, targets, *own).mean())(
            logits
        )
        names = ("cross_entropy", "cross_entropy_grad")
        if share is not None:
            names = (f"loss_eps{share:g}", f"grad_eps{share:g}")
        found |= dict(zip(names, (loss, grad), strict=True))
    return found


def scores(settings, inputs):
    """Returns accuracies among the k largest logits, in per cent."""
    logits, targets = inputs["ls/logits"], inputs["ls/targets"]
    right = [is_among(logits, targets, k).mean() for k in settings["topk"]]
    return {"topk": 100 * jnp.stack(right)}


def cutout(settings, _):
    """Returns masks around given centres and around those that numpy draws, rows first."""

    def masks(height, width, length, centres):
        rows, columns = jnp.asarray(centres).T
        draws = augment.Draws(rows, columns, rows > 0, rows, columns)
        ones = jnp.ones((len(centres), height, width, 1), jnp.float32)
        return augment.cut_out(ones, draws, length)[..., 0]

    flat = [
        masks(height, width, length, [(row, column)]).ravel()
        for height, width, length, row, column in settings["cutout_cases"]
    ]
    draw = np.random.RandomState(settings["cutout_seed"])
    height, width, length = settings["cutout_cases"][0][:3]
    centres = np.array([[draw.randint(height), draw.randint(width)] for _ in range(8)])
    return {
        "masks": jnp.concatenate(flat),
        "seeded_centres_yx": centres,
        "seeded_masks": masks(height, width, length, centres),
    }


def clipping(settings, inputs):
    """Returns norms before, and gradients after clipping."""
    grads = under(inputs, "clip/")
    found = {}
    for limit in settings["clip_max_norms"]:
        clip = optim.clip_by_norm(limit)
        clipped, _ = clip.update(grads, clip.init(grads))
        found[f"norm_{limit:g}"] = optax.tree.norm(grads)
        found |= {f"{name}_{limit:g}": value for name, value in clipped.items()}
    return found


def dropped_paths(settings, inputs):
    """Returns one map after drop-path at several probabilities."""
    x, kept = images(inputs, "dp/x"), inputs["dp/mask"]
    return {
        f"out_{probability:g}": np.moveaxis(
            drop_path.drop(x, drop_path.factors(kept, probability), ChannelsLast), -1, 1
        )
        for probability in settings["drop_probs"]
    }


def optimisers(_, inputs):
    """Returns the parameters after every step, and the last momentum buffer."""

    def run(transformation, rate):
        params, path = inputs["opt/p0"], []
        state = transformation.init(params)
        for grads in inputs["opt/grads"]:
            params, state = optim.descend(transformation, rate, grads, state, params)
            path.append(params)
        return jnp.stack(path), state

    rate, momentum, decay = SGD
    path, state = run(optim.momentum_sgd(momentum, decay, 0), rate)
    found = {"sgd": path, "sgd_momentum_buffer": optim.momentum_buffer(state)}
    for name, (rate, betas, decay, placement) in ADAMS.items():
        found[name], _ = run(optim.adam(betas, EPSILON, decay, placement), rate)
    return found


def means(_, inputs):
    """Returns the mean loss of an epoch after each of its steps, as a search counts it."""
    values, counts = inputs["meter/val"], [int(n) for n in inputs["meter/n"]]

    def seed(batch):
        tree = {"data": {"global_batch": batch}, "precision": {"compute": "float64"}}
        model = types.SimpleNamespace(
            init=lambda key: ({"w": jnp.zeros(1)}, {}),
            draw_alphas=lambda key: {},
            total_names=PictureModel.total_names,
            totals=PictureModel.totals,
        )
        return OneSeed(msgspec.convert(tree, Config), model, len(counts))

    state, found = seed(1).init(0), []
    for value, count in zip(values, counts, strict=True):
        metrics = {"loss": value, "accuracy": jnp.zeros(())}
        grads = jax.tree.map(jnp.zeros_like, state.params)
        state, _ = seed(count).weight_step(state, state.stats, grads, metrics, jnp.zeros(()))
        totals = {name: np.asarray(total)[None] for name, total in state.totals.items()}
        found.append(tellings.averages(totals, 0)[0])
    return {"avg": np.array(found)}


PIECES = {
    "lr": schedules,
    "ls": losses,
    "acc": scores,
    "cutout": cutout,
    "clip": clipping,
    "dp": dropped_paths,
    "opt": optimisers,
    "meter": means,
}
