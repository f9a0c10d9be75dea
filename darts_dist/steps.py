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

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from darts_dist.programs import BATCH, SCALAR, SEED, SHARED, SPECS, Program, compile_all


class Step:
    """The programs that train the weights of every seed, and the order in which they run.

    config: a `Config` or `TrainConfig`.  mesh: ("seed", "data").  one: `seedwork.OneSeed`.
    """

    streams = ("train",)  # the batches of one step, by name

    def __init__(self, config, mesh, one):
        self.config, self.mesh, self.one = config, mesh, one
        self.blocks = config.seeds.count // mesh.shape["seed"]
        gradient = (SEED, SEED, SEED, BATCH)
        self._gradients = {
            "params": self._program("gradient_params", one.gradient("params"), *gradient)
        }
        self._programs = {
            "init": self._program("init", one.init, SEED),
            "prepare": self._program(
                "prepare", one.prepare, SEED, BATCH, SEED, SCALAR, gives=BATCH
            ),
            "weight_step": self._program(
                "weight_step", one.weight_step, SEED, SEED, SEED, SEED, SCALAR, donate=(0,)
            ),
            "evaluate": self._program(
                "evaluate", one.evaluate, SEED, SEED, SHARED, SHARED, SHARED, SCALAR, donate=(1,)
            ),
        }

    def _program(self, name, body, *takes, gives=SEED, donate=()):
        debug = self.config.debug
        ways = {"eager": debug.eager, "stop_at_nan": debug.nans}
        return Program(name, self.mesh, body, takes, gives, donate, **ways)

    @property
    def programs(self):
        """Returns the programs that the step was traced with, by name."""
        every = [*self._programs.values(), *self._gradients.values()]
        return {program.name: program for program in every if program.traced is not None}

    # The order in which the programs run.

    def init(self, seeds):
        """Returns the blocks of the first state, born on their devices; seeds:
        all S seed numbers.
        """
        seeds = np.asarray(seeds, np.int32)
        return tuple(
            self._programs["init"](self.place(seeds[block :: self.blocks], SEED, whole=True))
            for block in range(self.blocks)
        )

    def place(self, local, kind, *, whole=False):
        """Returns global arrays of this process's part of each array of a tree (or of the whole,
        on every process).
        """
        sharding = NamedSharding(self.mesh, SPECS[kind])
        if whole:
            return jax.tree.map(
                lambda x: jax.make_array_from_callback(x.shape, sharding, lambda at: x[at]), local
            )
        groups, batch = self.mesh.shape["seed"], self.config.data.global_batch
        lead = {SEED: (groups,), SHARED: (batch,), BATCH: (groups, batch)}[kind]

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
        """Returns (fed, labels) by stream of a block's pictures uint8[G, N, H, W, C]."""
        strength = np.asarray(strength, self.one.real)
        return self._programs["prepare"](state.step, batch, state.key, strength)

    def update(self, state, ready, rate):
        """Returns (state, metrics) after one step of one block on prepared batches at a learning
        rate.

        Metrics, f[G] each: loss and accuracy (per cent) on the training batch before the step,
        grad_norm before clipping, alive.
        """
        here = self._gradients["params"](state.params, state.stats, state.alphas, ready["train"])
        rate = np.asarray(rate, self.one.real)
        return self._programs["weight_step"](
            state, here["stats"], here["params"], here["metrics"], rate
        )

    def __call__(self, blocks, batches, rate, *, strength=0.0, **how):
        """Returns (blocks, metrics of each block) after one step of every seed;
        the blocks given are used up.

        strength: of what the model does against overfitting.  how: more for `update`.
        """
        moved, metrics = [], []
        for state, batch in zip(blocks, batches, strict=True):
            state, seen = self.update(state, self.prepare(state, batch, strength), rate, **how)
            moved.append(state)
            metrics.append(seen)
        return tuple(moved), metrics

    def evaluate(self, blocks, batches):
        """Returns each block's sums of loss, right answers and examples, f[G], over batches of
        all processes.

        batches: iterable of this process's {"image": uint8[n, H, W, C], "label": int32[n],
        "mask": bool[n]}.
        """
        names = (*self.one.model.score_names, "count")
        totals = [
            {name: jnp.zeros_like(state.totals["count"]) for name in names} for state in blocks
        ]
        for index, local in enumerate(batches):
            batch = self.place(local, SHARED)
            for block, state in enumerate(blocks):
                totals[block] = self._programs["evaluate"](
                    state,
                    totals[block],
                    batch["image"],
                    batch["label"],
                    batch["mask"],
                    np.int32(index),
                )
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
        return self._map(lambda *parts: jax.tree.map(lambda *x: jnp.concatenate(x), *parts))

    @functools.cached_property
    def _split(self):
        def body(state):
            return tuple(
                jax.tree.map(lambda x, b=b: x[b : b + 1], state) for b in range(self.blocks)
            )

        return self._map(body)

    def _map(self, body):
        spec = SPECS[SEED]
        return jax.jit(jax.shard_map(body, mesh=self.mesh, in_specs=spec, out_specs=spec))

    def trace(self, image_shape):
        """Traces every program of a step on uint8 pictures [H, W, C], by running it on shapes."""
        groups, batch = self.mesh.shape["seed"], self.config.data.global_batch

        def pictures(*lead):
            image = jax.ShapeDtypeStruct((*lead, *image_shape), jnp.uint8)
            return {"image": image, "label": jax.ShapeDtypeStruct(lead, jnp.int32)}

        shown = pictures(batch)
        state = self._programs["init"](jax.ShapeDtypeStruct((groups,), jnp.int32))
        ready = self.prepare(state, {name: pictures(groups, batch) for name in self.streams})
        state = self._trace_update(state, ready)
        mask = jax.ShapeDtypeStruct((batch,), bool)
        sums = {name: state.totals["count"] for name in (*self.one.model.score_names, "count")}
        self._programs["evaluate"](state, sums, shown["image"], shown["label"], mask, np.int32(0))

    def _trace_update(self, state, ready):
        return self.update(state, ready, 0.1)[0]

    def compile(self, image_shape):
        """Compiles every program of a step on uint8 pictures [H, W, C], but with debug.eager;
        returns {"trace_s", "compile_s"}.
        """
        if self.config.debug.eager:
            return {"trace_s": 0.0, "compile_s": 0.0}
        began = time.perf_counter()
        self.trace(image_shape)
        traced = time.perf_counter() - began
        times = compile_all(self.programs.values())
        return {"trace_s": times["trace_s"] + traced, "compile_s": times["compile_s"]}
