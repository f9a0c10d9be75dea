"""Primitives with transposes of our own: what plain autodiff would turn into one kernel for each
shifted view.

jax transposes a slice into a pad, and XLA on CPU gives every pad a kernel.  A linear operation
whose transpose is written as slices too stays one kernel in every order of derivative.  (custom_vjp
would block the forward derivative.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def alike(*arrays):
    """Returns the arrays, each varying over every mesh axis that one of them varies over (as jax
    does for its own).
    """
    axes = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    every = frozenset().union(*axes)
    return [
        lax.pcast(x, tuple(every - own), to="varying") if every - own else x
        for x, own in zip(arrays, axes, strict=True)
    ]


def primitive(name, impl, shape):
    """Returns a primitive computed by `impl(*arrays, **sizes)`; `shape(*shapes, **sizes)` is its
    result's shape.

    The result has the first array's dtype and varies over the mesh axes that the arrays (made
    `alike`) vary over.
    """
    made = Primitive(name)

    def evaluate(*arrays, **sizes):
        return jax.jit(functools.partial(impl, **sizes))(*arrays)

    def abstract(first, *rest, **sizes):
        out = shape(first.shape, *(x.shape for x in rest), **sizes)
        sharding = jax.NamedSharding(first.sharding.mesh, jax.P(*[None] * len(out)))
        mat = first.manual_axis_type
        return core.ShapedArray(out, first.dtype, sharding=sharding, manual_axis_type=mat)

    made.def_impl(evaluate)
    made.def_abstract_eval(abstract)
    mlir.register_lowering(made, mlir.lower_fun(impl, multiple_results=False))
    return made


def linear_pair(name, impl, shape, transposed_impl, transposed_shape):
    """Returns two primitives, each the transpose of the other: linear in the first array, the
    rest constants.

    Their axes must be counted from the end, so that batched arrays can simply have one axis more
    in front.
    """
    one, other = (
        primitive(name, impl, shape),
        primitive(f"{name}_t", transposed_impl, transposed_shape),
    )
    for made, back in ((one, other), (other, one)):
        _make_linear(made, back)
    return one, other


def _make_linear(made, back):
    def jvp(primals, tangents, **sizes):
        t = tangents[0]
        out = made.bind(*primals, **sizes)
        if isinstance(t, ad.Zero):
            return out, ad.Zero.from_primal_value(out)  # pyright: ignore[reportAttributeAccessIssue]
        return out, made.bind(t, *primals[1:], **sizes)

    def transpose(cotangent, x, *constants, **sizes):
        zero = isinstance(cotangent, ad.Zero)
        return [
            None if zero else back.bind(cotangent, *constants, **sizes),
            *[None] * len(constants),
        ]

    def batch(arrays, axes, /, **sizes):  # a primitive's own `axes` are among its sizes
        size = next(x.shape[a] for x, a in zip(arrays, axes, strict=True) if a is not None)
        moved = [
            jnp.broadcast_to(x[None], (size, *x.shape)) if a is None else jnp.moveaxis(x, a, 0)
            for x, a in zip(arrays, axes, strict=True)
        ]
        return made.bind(*moved, **sizes), 0

    ad.primitive_jvps[made] = jvp
    ad.primitive_transposes[made] = transpose
    batching.primitive_batchers[made] = batch


def pairwise(terms):
    """Returns the sum of a list, pair by pair: it rounds less than a sum from left to right, and
    fewer values close to zero change their sign.
    """
    while len(terms) > 1:
        pairs = zip(terms[::2], terms[1::2], strict=False)
        terms = [a + b for a, b in pairs] + terms[len(terms) // 2 * 2 :]
    return terms[0]


def _sum_axes_impl(x, *, axes, sizes):
    for axis in sorted(axes):  # counted from the end: what comes before stays in its place
        index = [slice(None)] * x.ndim
        parts = []
        for at in range(x.shape[axis]):
            index[axis] = slice(at, at + 1)
            parts.append(x[tuple(index)])
        x = pairwise(parts)
    return lax.squeeze(x, [axis + x.ndim for axis in axes])


def _sum_axes_shape(x, *, axes, sizes):
    return tuple(size for at, size in enumerate(x) if at - len(x) not in axes)


def _spread_axes_impl(g, *, axes, sizes):
    whole = _spread_axes_shape(g.shape, axes=axes, sizes=sizes)
    kept = [at for at in range(len(whole)) if at - len(whole) not in axes]
    return lax.broadcast_in_dim(g, whole, kept)


def _spread_axes_shape(g, *, axes, sizes):
    whole = list(g)
    for axis, size in sorted(zip(axes, sizes, strict=True), reverse=True):
        whole.insert(len(whole) + axis + 1, size)
    return tuple(whole)


_sum_axes, _ = linear_pair(
    "sum_axes", _sum_axes_impl, _sum_axes_shape, _spread_axes_impl, _spread_axes_shape
)


def sum_axes(x, axes):
    """Returns the sum over a few short axes as additions of slices: one kernel with whatever x is
    made of, where XLA on CPU gives each `sum` its own.
    """
    return _sum_axes.bind(
        x, axes=tuple(axis - x.ndim for axis in axes), sizes=tuple(x.shape[a] for a in axes)
    )


def _repeat_impl(x, *, axes, sizes):
    return lax.optimization_barrier(_spread_axes_impl(x, axes=axes, sizes=sizes))


def _repeat_back_impl(g, *, axes, sizes):
    return g.sum(axes)


_repeat, _ = linear_pair(
    "repeat", _repeat_impl, _spread_axes_shape, _repeat_back_impl, _sum_axes_shape
)


def repeat(x, count):
    """Returns x `count` times along a new first axis.

    Written out to memory, so that XLA does not join the sum over that axis in the derivative with
    the sums before it.
    """
    return _repeat.bind(x, axes=(-x.ndim - 1,), sizes=(count,))


def _pick_impl(x, *, rows, columns, size):
    return jnp.take(jnp.take(x, np.array(rows, int), -2), np.array(columns, int), -1)


def _pick_shape(x, *, rows, columns, size):
    return (*x[:-2], len(rows), len(columns))


def _pick_back_impl(g, *, rows, columns, size):
    for axis, places, count in ((-2, rows, size[0]), (-1, columns, size[1])):
        where = np.full(count, len(places))  # of what was left out: a zero behind the rest
        where[np.array(places, int)] = np.arange(len(places))
        end = [(0, 0)] * g.ndim
        end[axis] = (0, 1)
        g = jnp.take(jnp.pad(g, end), where, axis)
    return g


def _pick_back_shape(g, *, rows, columns, size):
    return (*g[:-2], *size)


_pick, _ = linear_pair("pick", _pick_impl, _pick_shape, _pick_back_impl, _pick_back_shape)


def pick(x, rows, columns):
    """Returns x[..., rows, :][..., columns] of f[..., E, K]; none of these twice.

    Its transpose reads too, where that of an indexed read would be a scatter.
    """
    return _pick.bind(x, rows=tuple(rows), columns=tuple(columns), size=x.shape[-2:])
