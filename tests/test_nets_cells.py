"""The search cell, computed source by source, against its edges written down plainly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from darts_dist import interop
from darts_dist.nets.cells import SearchCell
from darts_dist.nets.init import Keys
from darts_dist.nets.layout import LAYOUTS
from darts_dist.nets.ops import ReluConvBN
from darts_dist.nets.pure import pure
from darts_dist.nets.rows import arranged, edge_order, levels

EVERY = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
CHANNELS_IN, CHANNELS = (3, 5), 4


# The plain definition: maps f[N, C, H, W], weights by the original's names.


def normed(x, seen, name):
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    count = x.size // x.shape[1]
    seen[f"{name}.running_mean"] = 0.1 * mean[0, :, 0, 0]
    seen[f"{name}.running_var"] = 0.9 + 0.1 * variance[0, :, 0, 0] * count / (count - 1)
    return (x - mean) / jnp.sqrt(variance + 1e-5)


def conv(x, w, stride=1, padding=0, dilation=1):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=x.shape[1] // w.shape[1],
    )


def windows(x, stride, fill):
    """Nine shifted views, [9, N, C, H', W']."""
    height, width = x.shape[2:]
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=fill)
    return jnp.stack(
        [
            x[:, :, i : i + height : stride, j : j + width : stride]
            for i in range(3)
            for j in range(3)
        ]
    )


def reduced(x, w, name, seen):
    x = jax.nn.relu(x)
    halves = [
        conv(x, w[f"{name}conv_1.weight"], 2),
        conv(x[:, :, 1:, 1:], w[f"{name}conv_2.weight"], 2),
    ]
    return normed(jnp.concatenate(halves, 1), seen, f"{name}bn")


def operation(op, x, w, name, seen, stride):
    if op == "none":
        return jnp.zeros_like(x[:, :, ::stride, ::stride])
    if op == "skip_connect":
        return x if stride == 1 else reduced(x, w, name, seen)
    if op == "max_pool_3x3":
        return normed(windows(x, stride, -np.inf).max(0), seen, f"{name}1")
    if op == "avg_pool_3x3":
        real = windows(jnp.ones_like(x), stride, 0.0).sum(0)
        return normed(windows(x, stride, 0.0).sum(0) / real, seen, f"{name}1")
    k, dilation = int(op[-1]), 2 if op.startswith("dil") else 1
    for at in (1,) if dilation == 2 else (1, 5):
        pad = dilation * (k // 2)
        x = conv(jax.nn.relu(x), w[f"{name}op.{at}.weight"], stride, pad, dilation)
        x = normed(conv(x, w[f"{name}op.{at + 1}.weight"]), seen, f"{name}op.{at + 2}")
        stride = 1
    return x


def plain_cell(w, inputs, p, *, nodes, operations, reduction, reduction_before):
    seen, states = {}, []
    for at, x in enumerate(inputs):
        name = f"preprocess{at}."
        if at == 0 and reduction_before:
            states.append(reduced(x, w, name, seen))
        else:
            x = conv(jax.nn.relu(x), w[f"{name}op.1.weight"])
            states.append(normed(x, seen, f"{name}op.2"))
    edge = 0
    for _ in range(nodes):
        total = 0.0
        for source, x in enumerate(list(states)):
            for k, op in enumerate(operations):
                stride = 2 if reduction and source < 2 else 1
                name = f"_ops.{edge}._ops.{k}."
                total = total + p[edge, k] * operation(op, x, w, name, seen, stride)
            edge += 1
        states.append(total)
    return jnp.concatenate(states[2:], 1), seen


def cell_entries(nodes, operations, reduction, reduction_before):
    """The cell's entries under the names that the plain cell uses."""
    for at, channels_in in enumerate(CHANNELS_IN):
        kind = "factorized_reduce" if at == 0 and reduction_before else "relu_conv_bn"
        for e in interop.operation_entries(
            kind,
            stride=1,
            channels_in=channels_in,
            channels=CHANNELS,
            affine=False,
            prefix=f"preprocess{at}.",
            path=("before", at),
        ):
            if e.tree == interop.PARAMS:
                yield e
            else:
                yield interop.Entry(
                    e.name, e.shape, e.kind, ("statistics", e.path[-1]), (at,), e.tree
                )
    by_source = np.argsort(edge_order(nodes))
    edge = 0
    for node in range(nodes):
        for source in range(2 + node):
            for k in range(len(operations)):
                yield from interop.edge_entries(
                    operations,
                    k,
                    stride=2 if reduction and source < 2 else 1,
                    channels=CHANNELS,
                    row=int(by_source[edge]),
                    prefix=f"_ops.{edge}._ops.{k}.",
                    path=("edges",),
                )
            edge += 1


def case(name, *values, slow=True):
    return pytest.param(*values, id=name, marks=[pytest.mark.medium] if slow else [])


CASES = [  # nodes, operations, reduction, reduction before, height and width of the maps
    case("reduction to odd maps", 2, EVERY, True, False, (6, 10)),
    case("four nodes", 4, ("skip_connect", "dil_conv_3x3", "max_pool_3x3"), False, True, (5, 12)),
    case("skips alone", 2, ("none", "skip_connect"), True, True, (4, 6)),
    case("identity alone", 2, ("skip_connect",), False, False, (3, 5), slow=False),
    case("none alone", 1, ("none",), True, False, (4, 6), slow=False),
    case("7x7 without pools", 1, ("sep_conv_7x7", "skip_connect"), False, True, (5, 9)),
    case("without none", 2, ("avg_pool_3x3", "dil_conv_5x5"), True, False, (10, 6)),
    case("one pool", 2, ("max_pool_3x3",), True, False, (6, 6)),
]


@pytest.mark.parametrize(("nodes", "operations", "reduction", "before", "size"), CASES)
def test_the_cell_is_the_sum_over_its_edges(float64, nodes, operations, reduction, before, size):
    draw = np.random.default_rng(nodes)
    twice = nodes == 4 or len(operations) in (1, 8)  # derivatives of derivatives too
    kind = {"nodes": nodes, "operations": operations, "reduction": reduction}
    kind["reduction_before"] = before
    entries = list(cell_entries(nodes, operations, reduction, before))
    first = 2 if before else 1
    inputs = [
        draw.normal(size=(3, channels, *(side * scale for side in size)))
        for channels, scale in zip(CHANNELS_IN, (first, 1), strict=True)
    ]
    p = jnp.asarray(draw.dirichlet(np.ones(len(operations)), len(edge_order(nodes))))

    def build(key, layout):
        rest = {"layout": layout, "init": "modern", "axis_name": None, "dtype": jnp.float64}
        return SearchCell(CHANNELS_IN, CHANNELS, keys=Keys(key), **kind, **rest)

    params, _ = pure(functools.partial(build, layout=LAYOUTS["batch_minor"]))[0](jax.random.key(1))
    tangents = jax.tree.map(lambda v: draw.normal(size=v.shape), params)
    plain_out = jax.eval_shape(
        lambda: plain_cell(interop.to_torch(params, None, entries), inputs, p, **kind)[0]
    )
    g = jnp.asarray(draw.normal(size=plain_out.shape))

    def derivatives(run, params, tangents, inputs, jit):
        """Value, statistics, gradients, and gradients of a directional derivative."""

        def loss(params, p, inputs):
            out, seen = run(params, p, inputs)
            return (out * g).sum() + (out**2 * g).sum(), (out, seen)

        def along(params, p, inputs):
            return jax.jvp(lambda params: loss(params, p, inputs)[0], (params,), (tangents,))[1]

        def every(params, p, inputs):
            here = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, p, inputs)
            return here, jax.grad(along, (0, 1))(params, p, inputs) if twice else None

        return (jax.jit(every) if jit else every)(params, p, inputs)

    def plain(w, p, inputs):
        return plain_cell(w, inputs, p, **kind)

    names = interop.to_torch(params, None, entries), interop.to_torch(tangents, None, entries)
    (wanted, first_wanted), second_wanted = derivatives(plain, *names, inputs, jit=False)
    for layout in LAYOUTS.values():
        init, apply = pure(functools.partial(build, layout=layout))
        _, stats = init(jax.random.key(1))
        back = (3, 0, 1, 2) if layout.channel == -4 else (0, 3, 1, 2)

        def run(params, p, inputs, apply=apply, stats=stats, layout=layout, back=back):
            maps = [layout.from_images(jnp.transpose(x, (0, 2, 3, 1))) for x in inputs]
            out, moved = apply(params, stats, maps, arranged(p, operations), train=True)
            return jnp.transpose(out, back), moved

        (found, grads), second = derivatives(run, params, tangents, inputs, jit=True)
        close(found[0], wanted[0])
        close(found[1][0], wanted[1][0])
        close(interop.to_torch(None, found[1][1], entries), wanted[1][1])
        close(interop.to_torch(grads[0], None, entries), first_wanted[0])
        close(grads[1:], first_wanted[1:])
        if twice:
            close(interop.to_torch(second[0], None, entries), second_wanted[0])
            close(second[1], second_wanted[1])


def close(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * max(1e-3, np.abs(b).max()))


@pytest.mark.parametrize("nodes", range(1, 6))
def test_levels_hold_every_edge_once(nodes):
    rows = edge_order(nodes)
    assert sorted(rows) == list(range(sum(2 + node for node in range(nodes))))
    assert [level.start for level in levels(nodes)[1:]] == [
        level.stop for level in levels(nodes)[:-1]
    ]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_running_statistics_move_a_tenth_and_serve_evaluation(float64, layout):
    rest = {"layout": layout, "affine": True, "init": "original", "dtype": jnp.float64}
    init, apply = pure(lambda key: ReluConvBN(3, 4, keys=Keys(key), **rest))
    params, stats = init(jax.random.key(0))
    x = layout.from_images(jax.random.normal(jax.random.key(1), (2, 4, 4, 3), jnp.float64))
    trained, moved = apply(params, stats, x, train=True)
    first, after = stats["norm"]["statistics"], moved["norm"]["statistics"]
    count = trained.size // 4
    batch = {  # the batch's own statistics, of what the running ones moved by
        "mean": (after["mean"] - 0.9 * first["mean"]) / 0.1,
        "var": (after["var"] - 0.9 * first["var"]) / 0.1 * (count - 1) / count,
    }
    evaluated, kept = apply(params, {"norm": {"statistics": batch}}, x, train=False)
    np.testing.assert_allclose(evaluated, trained, rtol=1e-12, atol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, kept["norm"]["statistics"], batch)
