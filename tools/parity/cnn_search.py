"""The search network: its passes here, architecture steps and trajectories in `steps`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist import interop
from darts_dist.losses import cross_entropy
from darts_dist.methods.relaxation import softmax
from darts_dist.nets.layout import LAYOUTS
from darts_dist.spaces import cnn
from parity import steps
from parity.cnn_genotypes import genotype
from parity.vectors import check_case, exact, guarded, images, read_cases, side_by_side, under

STEM = "cnn_search"
LOSSES = ("logits_train", "logits_eval", "loss_train", "loss_eval", "valid_loss")
TOLERANCE = {  # (losses and logits, running statistics, gradients and everything else)
    64: (1e-8, 1e-8, 1e-8),
    32: (1e-4, 1e-5, 1e-3),
}


def tolerance(bits, name):
    """Returns the tolerance of an output of a pass; `first/`, `unrolled/` ... do not matter."""
    losses, statistics, rest = TOLERANCE[bits]
    if name.rsplit("/", 1)[-1] in LOSSES:
        return losses
    return statistics if "stats_after/" in name else rest


def check(directory):
    """Yields the rows of all cases."""
    yield from side_by_side(_check, read_cases(directory, STEM))


def layouts(kind, bits):
    """Returns the layouts to run: float64 passes and float32 steps in all, else the one for CPU.

    What search runs on the machine at hand is always among them.
    """
    both = bits == 64 if kind == "forward" else bits == 32
    return tuple(LAYOUTS) if both else ("batch_minor",)


def _check(case):
    kind = case.settings["kind"]
    if kind == "forward":
        yield from guarded(STEM, case.name, "", functools.partial(_names, case))

    compute = functools.partial(RUNS[kind], case)
    yield from check_case(STEM, case, functools.partial(layouts, kind), compute, tolerance)


def _names(case):
    """Returns rows for what the settings say: names in order, and the genotype of the alphas."""
    config = steps.config_of(case, 64)
    sizes = steps.sizes_of(config)
    state = under(case.inputs, "state/")
    params, stats = interop.search_from_torch(state, **sizes)
    alphas = {cell: case.inputs[f"alphas_{cell}"] for cell in cnn.CELLS}
    found = {
        "param_names": list(interop.search_to_torch(params, **sizes)),
        "state_names": list(interop.search_to_torch(params, stats, **sizes)),
        "genotype": genotype(alphas, sizes["operations"]),
    }
    return [
        exact(STEM, case.name, "", name, value, case.settings[name])
        for name, value in found.items()
        if name in case.settings
    ]


def forward(case, layout, bits):
    """Returns the outputs of a `forward` case: one pass in training, one in evaluation."""
    config = steps.config_of(case, bits)
    sizes, dtype = steps.sizes_of(config), f"float{bits}"
    _, apply = cnn.build(config, case.settings["classes"], layout)
    cast = functools.partial(jnp.asarray, dtype=dtype)
    params, stats, alphas = jax.tree.map(cast, steps.imported(case, config))
    x, y = jnp.asarray(images(case.inputs, "x"), dtype), jnp.asarray(case.inputs["y"])

    def loss(params, alphas, train):
        logits, moved = apply(params, stats, x, softmax(alphas), train=train)
        return cross_entropy(logits, y).mean(), (logits, moved)

    @jax.jit
    def passes(params, alphas):
        take = jax.value_and_grad(loss, (0, 1), has_aux=True)
        return take(params, alphas, True), loss(params, alphas, False)

    out = passes(params, alphas)
    ((loss_train, (logits_train, moved)), (grads, alpha_grads)), (loss_eval, (logits_eval, _)) = out
    named = interop.search_to_torch(grads, moved, **sizes)
    names = list(interop.search_to_torch(grads, **sizes))
    norms = np.array([np.linalg.norm(named[name]) for name in names])
    return {
        "logits_train": logits_train,
        "logits_eval": logits_eval,
        "loss_train": loss_train,
        "loss_eval": loss_eval,
        "grad_norm_per_param": norms,
        "grad_norm_total": np.linalg.norm(norms),
        **{f"grad_alphas_{cell}": alpha_grads[cell] for cell in cnn.CELLS},
        **{f"grad/{name}": named[name] for name in names},
        **{f"stats_after/{name}": v for name, v in named.items() if name not in names},
    }


RUNS = {"forward": forward, "architect": steps.architect, "trajectory": steps.trajectory}
