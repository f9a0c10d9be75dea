"""Compiled programs over the mesh: what one seed does, mapped over seeds and data replicas,
compiled ahead of time.

A `Program` is jit(shard_map(body)): inside, `body` sees one seed and this device's rows of the
batch. Every array of a seed has a leading axis that is sharded over "seed"; `body` gets and returns
trees without it.  All programs of a step
are traced by running the step once over shapes, and compiled side by side before the first step.
For finding faults a program also runs uncompiled, on one device.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import pathlib
import time
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

from darts_dist import cluster

PACKAGE = pathlib.Path(__file__).parent
SEED, BATCH, SHARED, SCALAR = "seed", "batch", "shared", "scalar"
SPECS = {
    SEED: PartitionSpec("seed"),  # [S, ...]: state of a seed, equal on all its replicas
    BATCH: PartitionSpec("seed", "data"),  # [S, N, ...]: examples of a seed
    SHARED: PartitionSpec("data"),  # [N, ...]: examples that all seeds see
    SCALAR: PartitionSpec(),  # one value for everybody
}


def vary(tree):
    """Returns a seed's replicated tree marked as varying over "data":
    its gradients are then this replica's own.
    """
    return _marked(tree, "data")


def zeros(shapes):
    """Returns zeros of these shapes, marked as what a seed's replica computes is."""
    return _marked(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), ("seed", "data"))


def _marked(tree, axes):
    """A tree marked as varying over axes; where no shard_map is, there is nothing to mark."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    return jax.tree.map(lambda x: jax.lax.pcast(x, axes, to="varying"), tree)


@dataclasses.dataclass(frozen=True)
class Portable:
    """A traced program as another process can take it.

    takes, gives: the trees of its arguments and results.  program: `jax.export`'s form of it.
    """

    takes: Any
    gives: Any
    program: bytes


class Program:
    """One body, mapped over the mesh; compiled by `compile_all`, or at its first call.

    takes: kind of each argument (SEED, BATCH, SHARED, SCALAR).  gives: kind of the result, or kinds
    by name where it is a dict.
    donate: positions of arguments whose buffers the result may take over.
    once: it runs once, so on CPU the compiler takes no time to make it fast.
    eager: never compile; one device.  stop_at_nan: raise FloatingPointError for a result with a
    NaN, naming the operation that made it; one device.
    """

    def __init__(
        self,
        name,
        mesh,
        body,
        takes,
        gives=SEED,
        donate=(),
        *,
        once=False,
        eager=False,
        stop_at_nan=False,
    ):
        self.name, self.mesh, self.body, self.takes, self.gives = name, mesh, body, takes, gives
        self.eager, self.stop_at_nan = eager, stop_at_nan
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        options = {"xla_backend_optimization_level": 0} if once and on_cpu else None
        inside = {SEED: _first, BATCH: _first, SHARED: lambda x: x, SCALAR: lambda x: x}

        def local(*args):
            args = [jax.tree.map(inside[kind], arg) for kind, arg in zip(takes, args, strict=True)]
            return jax.tree.map(_lead, body(*args))

        local.__name__ = local.__qualname__ = name
        specs = tuple(SPECS[kind] for kind in takes)
        results = jax.tree.map(SPECS.get, gives)
        mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=results)
        self.mapped = jax.jit(mapped)
        # A result with a NaN is computed again, from the arguments.
        donated = () if stop_at_nan else donate
        self._jit = functools.partial(jax.jit, donate_argnums=donated, compiler_options=options)
        self.jitted = self._jit(mapped)
        # By the shapes of the arguments.
        self.shapes, self.traces, self.executables = {}, {}, {}
        self.runs = collections.Counter()  # of what was traced, by the shapes of the arguments

    @property
    def traced(self):
        """Returns the program as it was first traced, or None."""
        return next(iter(self.traces.values()), None)

    @property
    def uses(self):
        """Returns how often the step that was traced runs the program."""
        return self.runs.total()

    @property
    def executable(self):
        """Returns what was compiled of `traced`, or None."""
        return next(iter(self.executables.values()), None)

    def __call__(self, *args):
        """Runs the program; of shapes (`jax.ShapeDtypeStruct`) it is traced, and gives shapes."""
        if self.eager:
            return self.uncompiled(args)
        if not self.executables and any(
            isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(args)
        ):
            sizes = _sizes(args)
            self.runs[sizes] += 1
            if sizes not in self.traces:
                self.shapes[sizes] = self._shapes(args)
                self.traces[sizes] = self.jitted.trace(*self.shapes[sizes])
            return self.traces[sizes].out_info
        one = self.executable
        if len(self.executables) > 1:
            one = self.executables.get(_sizes(args))
        result = (one or self.jitted)(*args)
        if self.stop_at_nan and _has_nan(result):
            print(f"{self.name} gives a NaN; going through its operations", flush=True)
            self.uncompiled(args)
            raise FloatingPointError(f"{self.name} gives a NaN, but none where it is not compiled")
        return result

    def uncompiled(self, args):
        """Returns what a call does, computed operation by operation in Python on one device.

        Prints and breakpoints in `body` see values.  shard_map would do so too, and take twice as
        long; under a vmap that maps nothing, collectives over "data" find their axis.
        """
        seen = [
            jax.tree.map(_first, arg) if kind in (SEED, BATCH) else arg
            for kind, arg in zip(self.takes, args, strict=True)
        ]
        try:
            with cluster.uncompiled(stop_at_nan=self.stop_at_nan):
                mapped = jax.vmap(lambda _: self.body(*seen), axis_name="data")
                result = mapped(jnp.zeros(1))
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} of {self.name}{_place(error)}") from error
        shardings = jax.tree.map(lambda kind: NamedSharding(self.mesh, SPECS[kind]), self.gives)
        return jax.device_put(result, shardings)

    def _shapes(self, args):
        shardings = {kind: NamedSharding(self.mesh, spec) for kind, spec in SPECS.items()}

        def shape(x, kind):
            return jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=shardings[kind])

        return [
            jax.tree.map(lambda x, kind=kind: shape(x, kind), arg)
            for kind, arg in zip(self.takes, args, strict=True)
        ]

    def export(self, sizes):
        """Returns what was traced for these shapes as `Portable`."""
        leaves, takes = jax.tree.flatten(self.shapes[sizes])
        gives = jax.tree.structure(self.traces[sizes].out_info)

        def flat(*leaves):
            return jax.tree.leaves(self.mapped(*jax.tree.unflatten(takes, leaves)))

        flat.__name__ = flat.__qualname__ = self.name
        return Portable(takes, gives, bytes(export.export(jax.jit(flat))(*leaves).serialize()))

    def lower_portable(self, one):
        """Returns a `Portable` of this program lowered: it compiles to what `lower` would."""
        program = export.deserialize(bytearray(one.program))
        shapes = self._shapes(jax.tree.unflatten(one.takes, program.in_avals))

        def call(*args):
            return jax.tree.unflatten(one.gives, program.call(*jax.tree.leaves(args)))

        call.__name__ = call.__qualname__ = self.name
        return self._jit(call).trace(*shapes).lower()

    def lower(self):
        """Returns the program lowered for the shapes that it was first traced with."""
        assert self.traced is not None, f"{self.name} was never traced"
        return self.traced.lower()


def _sizes(args):
    return tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(args))


def _first(x):
    return x[0]


def _lead(x):
    return x[None]


def _has_nan(tree):
    real = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return any(np.isnan(x).any() for x in jax.device_get(real))


def _place(error):
    """Returns `, file:line` of the innermost line of this package, but this file, of an error."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if PACKAGE in pathlib.Path(frame.filename).parents]
    places = [frame for frame in own if frame.filename != __file__][-1:]
    return "".join(
        f", {pathlib.Path(one.filename).relative_to(PACKAGE.parent)}:{one.lineno}" for one in places
    )


def lower_all(programs):
    """Returns traced programs lowered, by program and by the shapes of their arguments, the longest
    first.
    """
    lowered = {
        (program, sizes): traced.lower()
        for program in programs
        for sizes, traced in program.traces.items()
    }
    return dict(sorted(lowered.items(), key=lambda one: -len(one[1].as_text())))


def compile_all(lower, threads=2):
    """Compiles what `lower` returns, of the form of `lower_all`, side by side;
    returns {"trace_s", "compile_s"} (wall time of `lower` and of compiling).

    The longest come first, so that the threads end together.
    """
    began = time.perf_counter()
    lowered = lower()
    traced = time.perf_counter()
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        executables = pool.map(lambda one: one.compile(), lowered.values())
        for (program, sizes), executable in zip(lowered, executables, strict=True):
            program.executables[sizes] = executable
    finally:  # an interrupt does not wait for the compiler
        pool.shutdown(wait=False, cancel_futures=True)
    return {"trace_s": traced - began, "compile_s": time.perf_counter() - traced}
