"""Compiled programs over the mesh: what one seed does, mapped over seeds and data replicas,
compiled ahead of time.

A `Program` is jit(shard_map(body)): inside, `body` sees one seed and this device's rows of the
batch. Every array of a seed has a leading axis that is sharded over "seed"; `body` gets and returns
trees without it.  All programs of a step
are traced by running the step once over shapes, and compiled side by side before the first step.
"""

import concurrent.futures
import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

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
    return jax.tree.map(lambda x: jax.lax.pcast(x, "data", to="varying"), tree)


def zeros(shapes):
    """Returns zeros of these shapes, marked as what a seed's replica computes is."""

    def one(x):
        return jax.lax.pcast(jnp.zeros(x.shape, x.dtype), ("seed", "data"), to="varying")

    return jax.tree.map(one, shapes)


class Program:
    """One body, mapped over the mesh; compiled by `compile_all`, or at its first call.

    takes: kind of each argument (SEED, BATCH, SHARED, SCALAR).  gives: kind of the result.
    donate: positions of arguments whose buffers the result may take over.
    """

    def __init__(self, name, mesh, body, takes, gives=SEED, donate=()):
        self.name, self.mesh, self.takes = name, mesh, takes
        inside = {SEED: _first, BATCH: _first, SHARED: lambda x: x, SCALAR: lambda x: x}
        outside = {SEED: _lead, BATCH: _lead}[gives]

        def local(*args):
            args = [jax.tree.map(inside[kind], arg) for kind, arg in zip(takes, args, strict=True)]
            return jax.tree.map(outside, body(*args))

        specs = tuple(SPECS[kind] for kind in takes)
        mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=SPECS[gives])
        local.__name__ = local.__qualname__ = name
        self.jitted = jax.jit(mapped, donate_argnums=donate)
        self.traced = None
        self.uses = 0  # in the step that was traced
        self.executable = None

    def __call__(self, *args):
        """Runs the program; of shapes (`jax.ShapeDtypeStruct`) it is traced, and gives shapes."""
        if self.executable is not None:
            return self.executable(*args)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(args)):
            self.uses += 1
            if self.traced is None:
                shapes = [
                    jax.tree.map(lambda x, kind=kind: self._shape(x, kind), arg)
                    for kind, arg in zip(self.takes, args, strict=True)
                ]
                self.traced = self.jitted.trace(*shapes)
            return self.traced.out_info
        return self.jitted(*args)

    def _shape(self, x, kind):
        sharding = NamedSharding(self.mesh, SPECS[kind])
        return jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=sharding)

    def lower(self):
        """Returns the program lowered for the shapes that it was traced with."""
        assert self.traced is not None, f"{self.name} was never traced"
        return self.traced.lower()


def _first(x):
    return x[0]


def _lead(x):
    return x[None]


def compile_all(programs, threads=2):
    """Compiles traced programs side by side;
    returns {"trace_s", "compile_s"} (wall time of lowering and of compiling).
    """
    began = time.perf_counter()
    lowered = {program: program.lower() for program in programs if program.traced is not None}
    traced = time.perf_counter()
    # Longest first (by size of the program text), so that the threads end together.
    order = sorted(lowered, key=lambda program: -len(lowered[program].as_text()))
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        executables = pool.map(lambda program: lowered[program].compile(), order)
        for program, executable in zip(order, executables, strict=True):
            program.executable = executable
    finally:  # an interrupt does not wait for the compiler
        pool.shutdown(wait=False, cancel_futures=True)
    return {"trace_s": traced - began, "compile_s": time.perf_counter() - traced}
