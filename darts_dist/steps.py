"""A step over many seeds and devices: State -> State under shard_map over the axes "seed" and
"data".

A step is a fixed sequence of compiled programs rather than one: the pass that takes gradients is
compiled once and called wherever one is needed. State stays on the devices; nothing here waits for
a result. `Step` trains weights; `searchstep` adds what moves alphas.

Each group of devices works on one seed at a time; more seeds than groups are `blocks` of one seed a
group, worked on in turn by the same executables, so that a seed's numbers do not depend on the
seeds beside it.

Letters: S seeds, G groups of devices, N global batch, n rows of it on one device.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from darts_dist.programs import BATCH, SCALAR, SEED, SHARED, SPECS, Program, compile_all, lower_all


class Step:
    """The programs that train the weights of every seed, and the order in which they run.

    config: a `Config` or `TrainConfig`.  mesh: ("seed", "data").  one: `seedwork.OneSeed`.
    """

    streams = ("train",)  # the batches of one step, by name

    def __init__(self, config, mesh, one):
        self.config, self.mesh, self.one = config, mesh, one
        self.blocks = config.seeds.count // mesh.shape["seed"]
        self.rates = one.model.rates
        self._gradients = {"params": self._gradient("params", penalised=True)}
        self._programs = {
            "init": self._program("init", one.init, SEED, once=True),
            "prepare": self._program(
                "prepare", one.prepare, SEED, BATCH, BATCH, SEED, SCALAR, gives=BATCH
            ),
            "weight_step": self._program(
                "weight_step", one.weight_step, SEED, SEED, SEED, SEED, self.rates, donate=(0,)
            ),
            "evaluate": self._program(
                "evaluate",
                one.evaluate,
                *(SEED, SEED, BATCH, SHARED, SCALAR),
                gives={"sums": SEED, "carried": BATCH},
                donate=(1, 2),
            ),
        }
        if one.model.streams:
            self._programs["carry"] = self._program(
                "carry", one.carry, SEED, BATCH, BATCH, gives=BATCH, donate=(1,)
            )

    def _program(self, name, body, *takes, gives: Any = SEED, donate=(), once=False):
        debug = self.config.debug
        ways = {"once": once, "eager": debug.eager, "stop_at_nan": debug.nans}
        return Program(name, self.mesh, body, takes, gives, donate, **ways)

    def _gradient(self, wrt, *, penalised=False):
        kinds = ("params", "alphas", "stats", "metrics")
        gives = {**dict.fromkeys(kinds, SEED), "carried": BATCH}
        body, takes = self.one.gradient(wrt, penalised), (SEED, SEED, SEED, BATCH)
        return self._program(f"gradient_{wrt}", body, *takes, gives=gives)

    @property
    def programs(self):
        """Returns the programs that the step was traced or compiled with, by name."""
        return {
            name: program
            for name, program in self._every.items()
            if program.traced is not None or program.executable is not None
        }

    @property
    def _every(self):
        every = (*self._programs.values(), *self._gradients.values())
        return {program.name: program for program in every}

    # The order in which the programs run.

    def init(self, seeds):
        """Returns the blocks of the first state, born on their devices; seeds:
        all S seed numbers.
        """
        seeds = np.asarray(seeds, np.int32)
        return tuple(
            dataclasses.replace(
                self._programs["init"](self.place(seeds[block :: self.blocks], SEED, whole=True)),
                hidden=self.hidden(self.one.model.streams, self.config.data.global_batch),
            )
            for block in range(self.blocks)
        )

    def hidden(self, streams, count):
        """Returns what a block carries before the first window, f[G, count, H] by stream."""
        shape = (self.mesh.shape["seed"], count, *self.one.model.carries)
        dtype = self.one.real
        zeros = {name: np.broadcast_to(np.zeros((), dtype), shape) for name in streams}
        return self.place(zeros, BATCH, whole=True)

    def place(self, local, kind, *, whole=False, batch=0):
        """Returns global arrays of this process's part of each array of a tree (or of the whole,
        on every process).

        batch: N where it is not the config's.
        """
        sharding = NamedSharding(self.mesh, SPECS[kind])
        if whole:
            return jax.tree.map(
                lambda x: jax.make_array_from_callback(x.shape, sharding, lambda at: x[at]), local
            )
        groups, rows = self.mesh.shape["seed"], batch or self.config.data.global_batch
        lead = {SEED: (groups,), SHARED: (rows,), BATCH: (groups, rows)}[kind]

        def one(x):
            shape = lead + x.shape[len(lead) :]
            return jax.make_array_from_process_local_data(sharding, x, shape)

        return jax.tree.map(one, local)

    def place_batches(self, batch):
        """Returns each block's global batch of this process's arrays [own seeds, own rows, ...]."""
        return [
            self.place(jax.tree.map(lambda x, b=b: x[b :: self.blocks], batch), BATCH)
            for b in range(self.blocks)
        ]

    def prepare(self, state, batch, strength=0.0):
        """Returns (fed, labels) by stream of what a block was given, [G, N, ...]."""
        strength = np.asarray(strength, self.one.real)
        return self._programs["prepare"](state.step, batch, state.hidden, state.key, strength)

    def update(self, state, ready, rate):
        """Returns (state, metrics) after one step of one block on prepared batches at a learning
        rate.

        Metrics, f[G] each: loss and accuracy (per cent) on the training batch before the step,
        grad_norm before clipping, alive.
        """
        here = self._gradients["params"](state.params, state.stats, state.alphas, ready["train"])
        return self._move_weights(state, here, self._rate(rate), {"train": here["carried"]})

    def _rate(self, rate):
        return np.asarray(rate, self.one.real) if self.rates == SCALAR else rate

    def _move_weights(self, state, here, rate, carried):
        """Returns (state, metrics) after the step of the weights; carried: to the next, by stream.

        here: of the pass that the step is taken by.
        """
        hidden = state.hidden
        state, metrics = self._programs["weight_step"](
            dataclasses.replace(state, hidden={}),
            here["stats"],
            here["params"],
            here["metrics"],
            rate,
        )
        if hidden:
            old, new = ({name: one[name] for name in carried} for one in (hidden, carried))
            hidden = hidden | self._programs["carry"](state.alive, old, new)
        return dataclasses.replace(state, hidden=hidden), metrics

    def __call__(self, blocks, batches, rate, *, strength=0.0, **how):
        """Returns (blocks, metrics of each block) after one step of every seed;
        the blocks given are used up.

        rate: of all, or of each block.  strength: of what the model does against overfitting.
        how: more for `update`.
        """
        moved, metrics = [], []
        rates = rate if isinstance(rate, list) else [rate] * len(blocks)
        for state, batch, own in zip(blocks, batches, rates, strict=True):
            state, seen = self.update(state, self.prepare(state, batch, strength), own, **how)
            moved.append(state)
            metrics.append(seen)
        return tuple(moved), metrics

    def evaluate(self, blocks, batches, batch=0):
        """Returns each block's sums of scores and of what was scored, f[G], over batches of all
        processes.

        batches: iterable of this process's arrays [n, ...] by name, all seeds' alike.  batch: rows
        of one over all processes where they are not the config's.
        """
        model, rows = self.one.model, batch or self.config.data.global_batch
        totals = [
            {name: jnp.zeros_like(state.totals["count"]) for name in (*model.score_names, "count")}
            for state in blocks
        ]
        streams = ("evaluation",) if model.streams else ()
        carried = [self.hidden(streams, rows) for _ in blocks]
        for index, local in enumerate(batches):
            shown = self.place(local, SHARED, batch=rows)
            for block, state in enumerate(blocks):
                out = self._programs["evaluate"](
                    dataclasses.replace(state, hidden={}),
                    totals[block],
                    carried[block],
                    shown,
                    np.int32(index),
                )
                totals[block], carried[block] = out["sums"], out["carried"]
        return totals

    def join(self, blocks):
        """Returns the blocks as one State with all S seeds in order;
        copies where there are several.
        """
        return blocks[0] if len(blocks) == 1 else self._joined(*blocks)

    def split(self, state):
        """Returns the blocks of a State with all S seeds."""
        return (state,) if self.blocks == 1 else self._split(state)

    @functools.cached_property
    def _joined(self):
        def join(*parts):
            specs = _specs(parts[0])
            body = self._map(
                lambda *own: jax.tree.map(lambda *x: jnp.concatenate(x), *own),
                (specs,) * len(parts),
                specs,
            )
            return body(*parts)

        return jax.jit(join)

    @functools.cached_property
    def _split(self):
        def split(state):
            specs = _specs(state)

            def body(own):
                return tuple(
                    jax.tree.map(lambda x, b=b: x[b : b + 1], own) for b in range(self.blocks)
                )

            return self._map(body, (specs,), (specs,) * self.blocks)(state)

        return jax.jit(split)

    def _map(self, body, takes, gives):
        return jax.shard_map(body, mesh=self.mesh, in_specs=takes, out_specs=gives)

    def trace(self, sizes):
        """Traces every program of a step, by running it on shapes; sizes: what the model's
        `shapes` takes, of a picture [H, W, C].
        """
        groups, shown = self.mesh.shape["seed"], self.one.model.shapes(sizes)
        first = self._programs["init"](jax.ShapeDtypeStruct((groups,), jnp.int32))
        hidden = self._hidden_shapes(self.one.model.streams, self.config.data.global_batch)
        first = dataclasses.replace(first, hidden=hidden)
        for batch in shown.steps:
            lead = (groups, self.config.data.global_batch)
            ready = self.prepare(first, {name: _led(batch[name], lead) for name in self.streams})
            state = self._trace_update(first, ready)
        names = (*self.one.model.score_names, "count")
        sums = {name: state.totals["count"] for name in names}
        streams = ("evaluation",) if hidden else ()
        for rows, arrays in shown.evaluations:
            rows = rows or self.config.data.global_batch
            self._programs["evaluate"](
                dataclasses.replace(state, hidden={}),
                sums,
                self._hidden_shapes(streams, rows),
                _led(arrays, (rows,)),
                np.int32(0),
            )

    def _hidden_shapes(self, streams, count):
        shape = (self.mesh.shape["seed"], count, *self.one.model.carries)
        return {name: jax.ShapeDtypeStruct(shape, self.one.real) for name in streams}

    def _trace_update(self, state, ready):
        return self.update(state, ready, self._traced_rate())[0]

    def _traced_rate(self):
        groups = self.mesh.shape["seed"]
        one = jax.ShapeDtypeStruct((groups,), self.one.real)
        return 0.1 if self.rates == SCALAR else one

    def compile(self, sizes, kept=None):
        """Compiles every program of a step as `trace` has them, but with debug.eager;
        returns {"trace_s", "compile_s"}.

        kept: a `keeping.KeptPrograms`, which spares the tracing where it was done before.
        """
        if self.config.debug.eager:
            return {"trace_s": 0.0, "compile_s": 0.0}

        def lower():
            if kept is not None:
                return kept.lower(self._every, lambda: self.trace(sizes))
            self.trace(sizes)
            return lower_all(self.programs.values())

        return compile_all(lower)


def _led(arrays, lead):
    """Shapes of arrays of one example as those of arrays [*lead, ...]."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), arrays)


def _specs(tree):
    """How the arrays of all seeds lie on the mesh: what is carried is split over "data" too."""

    def spec(path, _):
        carried = any(getattr(key, "name", None) == "hidden" for key in path)
        return SPECS[BATCH if carried else SEED]

    return jax.tree_util.tree_map_with_path(spec, tree)
