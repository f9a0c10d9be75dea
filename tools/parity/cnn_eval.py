"""The networks of one genotype: a pass in training with its gradients, and one in evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist import genotype as genotypes
from darts_dist.interop_network import network_from_torch, network_to_torch
from darts_dist.losses import cross_entropy, with_auxiliary
from darts_dist.nets import drop_path
from darts_dist.nets.layout import LAYOUTS
from darts_dist.nets.network import Network, drop_paths
from darts_dist.nets.pure import pure
from parity.vectors import (
    VectorError,
    check_case,
    exact,
    guarded,
    images,
    read_cases,
    side_by_side,
    under,
)

STEM = "cnn_eval"
TOLERANCE = {  # (losses and logits, running statistics, norms of gradients, gradients)
    64: (1e-8, 1e-8, 1e-8, 1e-8),
    32: (1e-4, 1e-5, 1e-2, 1e-3),
}


def tolerance(bits, name):
    """Returns the tolerance of an output."""
    losses, statistics, norms, rest = TOLERANCE[bits]
    if name.startswith(("logits_", "loss_")):
        return losses
    if name.startswith("grad_norm_"):
        return norms
    return statistics if name.startswith("stats_after/") else rest


def check(directory):
    """Yields the rows of all cases."""
    yield from side_by_side(_check, read_cases(directory, STEM))


def layouts(bits):
    """Returns the layouts to run: all in float64, in float32 the one for CPU."""
    return tuple(LAYOUTS) if bits == 64 else ("batch_minor",)


def _check(case):
    yield from guarded(STEM, case.name, "", functools.partial(_counts, case))
    yield from check_case(STEM, case, layouts, functools.partial(outputs, case), tolerance)


def naming_of(settings):
    """Returns what `interop_network` must be told of a network."""
    return {
        "genotype": genotypes.load(settings["genotype"], "cnn"),
        "stem": settings["net"],
        "layers": settings["layers"],
    }


def _counts(case):
    """Returns rows for what the settings say: names of parameters in order, and their number."""
    params, _ = network_from_torch(under(case.inputs, "state/"), **naming_of(case.settings))
    names = network_to_torch(params, **naming_of(case.settings))
    sizes = {name: value.size for name, value in names.items()}
    auxiliary = sum(size for name, size in sizes.items() if "auxiliary" in name)
    found = {
        "param_names": list(names),
        "param_count": sum(sizes.values()),
        "param_count_no_auxiliary": sum(sizes.values()) - auxiliary,
    }
    return [
        exact(STEM, case.name, "", name, value, case.settings[name])
        for name, value in found.items()
        if name in case.settings
    ]


def outputs(case, layout, bits):
    """Returns every output of a case by its name; layout: a name."""
    settings, inputs, dtype = case.settings, case.inputs, f"float{bits}"
    naming = naming_of(settings)
    x, y = jnp.asarray(images(inputs, "x"), dtype), jnp.asarray(inputs["y"])
    sizes = {
        "channels": settings["C"],
        "classes": settings["classes"],
        "channels_in": x.shape[-1],
        "auxiliary": settings["auxiliary"],
        "original": True,
        "layout": layout,
        "dtype": dtype,
    }
    _, apply = pure(lambda key: Network(key, **naming, **sizes))
    state = network_from_torch(under(inputs, "state/"), **naming)
    params, stats = jax.tree.map(lambda v: jnp.asarray(v, dtype), state)
    factors = _factors(case, dtype)

    def loss(params):
        found, moved = apply(params, stats, x, factors, train=True)
        losses = with_auxiliary(found, y, settings["auxiliary_weight"])
        return losses.mean(), (found, moved)

    @jax.jit
    def passes(params):
        here = jax.value_and_grad(loss, has_aux=True)(params)
        (logits, _), _ = apply(params, stats, x, train=False)
        return here, logits

    ((loss_train, ((logits, auxiliary), moved)), grads), logits_eval = passes(params)
    named = network_to_torch(grads, moved, **naming)
    names = list(network_to_torch(grads, **naming))
    norms = np.array([np.linalg.norm(named[name]) for name in names])
    return {
        "logits_train": logits,
        "logits_aux_train": auxiliary,
        "loss_train": loss_train,
        "logits_eval": logits_eval,
        "loss_eval": cross_entropy(logits_eval, y).mean(),
        "grad_norm_per_param": norms,
        "grad_norm_total": np.linalg.norm(norms),
        **{f"grad/{name}": named[name] for name in names},
        **{f"stats_after/{name}": v for name, v in named.items() if name not in names},
    }


def _factors(case, dtype):
    """Returns drop-path's factors by the case's masks, or None where it has none."""
    settings = case.settings
    if not settings["drop_path_prob"]:
        return None
    order = [tuple(place) for place in settings["mask_order_cell_op"]]
    genotype, layers = naming_of(settings)["genotype"], settings["layers"]
    wanted = drop_paths(genotype, layers=layers)
    if sorted(order) != sorted(wanted):
        raise VectorError(f"masks are for {order}, the network drops {wanted}")
    kept = np.stack([case.inputs["masks"][order.index(path)] for path in wanted], 1)
    return drop_path.factors(kept, jnp.asarray(settings["drop_path_prob"], dtype))
