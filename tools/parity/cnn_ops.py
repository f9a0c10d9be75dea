"""Single operations: those of `nets.ops`, and one edge of the grouped code that search runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist import interop
from darts_dist.config import Config
from darts_dist.nets.edges import MixedEdges
from darts_dist.nets.init import Keys
from darts_dist.nets.layout import LAYOUTS
from darts_dist.nets.ops import OPS, FactorizedReduce, ReluConvBN
from darts_dist.nets.pure import pure
from darts_dist.nets.rows import arranged
from parity.vectors import check_case, images, read_cases, side_by_side, under

STEM = "cnn_ops"
TOLERANCE = {64: 1e-10, 32: 1e-5}
PLAIN = {"relu_conv_bn": ReluConvBN, "factorized_reduce": FactorizedReduce}
MIXED = tuple(Config().space.operations)  # the order of the weights' columns
UNGROUPED = ("conv_7x1_1x7",)  # in no mixture


def check(directory):
    """Yields the rows of all cases, in every layout and precision."""
    yield from side_by_side(_check, read_cases(directory, STEM))


def _check(case):
    compute = functools.partial(outputs, case)
    return check_case(STEM, case, lambda _: LAYOUTS, compute, lambda bits, _: TOLERANCE[bits])


def outputs(case, layout, bits):
    """Returns every output of a case by its name; layout: a name."""
    settings, inputs, layout, dtype = case.settings, case.inputs, LAYOUTS[layout], f"float{bits}"
    build, entries, run = _subject(settings, layout, dtype)
    _, apply = pure(build)
    entries = list(entries)
    state = interop.from_torch(under(inputs, "state/"), entries)
    params, stats = jax.tree.map(lambda v: jnp.asarray(v, dtype), state)
    x, g = (layout.from_images(jnp.asarray(images(inputs, k), dtype)) for k in ("x", "g"))
    weights = jnp.asarray(inputs.get("weights", np.ones(1)), dtype)

    def passes(params, x, weights):
        def forward(*arguments, train=True):
            params, x, weights = arguments
            return run(apply, params, stats, x, weights, train=train)

        y, pull, moved = jax.vjp(forward, params, x, weights, has_aux=True)
        return y, pull(g), moved, forward(params, x, weights, train=False)[0]

    if settings["module"] == "mixed":  # small operations compile faster one by one
        passes = jax.jit(passes)
    y, (grads, grad_x, grad_weights), moved, y_eval = passes(params, x, weights)
    named = {
        "grad": interop.to_torch(grads, None, entries),
        "stats_after": interop.to_torch(None, moved, entries),
    }
    return {
        "y_train": _picture(y, layout),
        "y_eval": _picture(y_eval, layout),
        "grad_x": _picture(grad_x, layout),
        "grad_weights": grad_weights,
        **{f"{group}/{k}": v for group, values in named.items() for k, v in values.items()},
    }


def _picture(x, layout):
    """One map as NCHW."""
    return np.transpose(x, (3, 0, 1, 2) if layout.channel == -4 else (0, 3, 1, 2))


def _subject(settings, layout, dtype):
    """Returns (build, entries, run) of a case.

    build(key) -> module.  run(apply, params, stats, x, weights, train) -> (y, moved statistics).
    """
    kind = settings["module"]
    rest = {"layout": layout, "init": "original", "dtype": dtype}
    if kind in PLAIN:
        sizes, affine = (settings["C_in"], settings["C_out"]), settings["affine"]
        entries = interop.operation_entries(
            kind, stride=1, channels_in=sizes[0], channels=sizes[1], affine=affine
        )
        return (
            lambda key: PLAIN[kind](*sizes, keys=Keys(key), affine=affine, **rest),
            entries,
            _run_plain,
        )
    stride, channels = settings["stride"], settings["C"]
    if kind == "op" and (settings["affine"] or settings["op"] in UNGROUPED):
        op, affine = settings["op"], settings["affine"]
        entries = interop.operation_entries(op, stride=stride, channels=channels, affine=affine)
        more = {"affine": affine, "axis_name": None, **rest}
        return (
            lambda key: OPS[op](channels, stride, keys=Keys(key), **more),
            entries,
            _run_plain,
        )
    operations = MIXED if kind == "mixed" else (settings["op"],)
    entries = [
        entry
        for k in range(len(operations))
        for entry in interop.edge_entries(
            operations,
            k,
            stride=stride,
            channels=channels,
            row=0,
            prefix=f"_ops.{k}." if kind == "mixed" else "",
        )
    ]

    def build(key):
        return MixedEdges(channels, 1, operations, reduction=stride == 2, keys=Keys(key), **rest)

    return build, entries, functools.partial(_run_edge, layout, operations)


def _run_plain(apply, params, stats, x, weights, *, train):
    del weights
    return apply(params, stats, x, train=train)


def _run_edge(layout, operations, apply, params, stats, x, weights, *, train):
    """Runs the edge from a cell's first input to its first node; the other edge has weight zero."""
    params, stats = jax.tree.map(lambda v: jnp.concatenate([v, v]), (params, stats))
    p = arranged(jnp.stack([weights, jnp.zeros_like(weights)]), operations)
    (y,), moved = apply(params, stats, layout.stack([x, x]), p, train=train)
    return y, moved
