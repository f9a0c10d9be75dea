"""The search step: State -> State under shard_map over the axes "seed" and "data".

A step is a fixed sequence of compiled programs rather than one: the pass that takes gradients is
compiled once and called for the weights and for each part of the alpha gradient. Alphas move first,
then weights, as in the original. State stays on the devices; nothing here waits for a result.

Each group of devices works on one seed at a time; more seeds than groups are `blocks` of one seed a
group, worked on in turn by the same executables, so that a seed's numbers do not depend on the
seeds beside it.

Letters: S seeds, G groups of devices, N global batch, n rows of it on one device.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from darts_dist import optim
from darts_dist.data.augment import Recipe
from darts_dist.methods import PRESETS
from darts_dist.methods.hypergradient import HYPERGRADIENTS, Gradient, Passes
from darts_dist.programs import BATCH, SCALAR, SEED, SHARED, SPECS, Program, compile_all
from darts_dist.seedwork import OneSeed
from darts_dist.spaces import cnn


class SearchStep:
    """The programs of one search and the order in which they run.

    config: a `Config`.  mesh: ("seed", "data").  classes: that the network tells apart.
    mean, std: of the pictures, a number a channel, for values scaled to 0..1.
    epoch_steps: steps after which the totals start anew.
    layout: a name of `nets.layout.LAYOUTS`; None for the fastest on the default backend.
    """

    def __init__(self, config, mesh, *, classes, mean, std, epoch_steps, layout=None):
        self.config, self.mesh = config, mesh
        network = cnn.build(config, classes, layout)
        data = config.data
        recipe = Recipe(data.crop_padding_px, data.flip, data.cutout_px, tuple(mean), tuple(std))
        self.one = OneSeed(config, network, recipe, epoch_steps)
        self.blocks = config.seeds.count // mesh.shape["seed"]
        preset = PRESETS[config.method.preset]
        name = config.method.hypergradient or preset.hypergradient
        self.hypergradient = HYPERGRADIENTS[name]
        self.weight_wrt = "params" if name == "first" else "both"
        self._build()

    def _build(self):
        seed, batch = SEED, BATCH

        def program(name, body, *takes, gives=SEED, donate=()):
            return Program(name, self.mesh, body, takes, gives, donate)

        both = (seed, batch, seed)
        self._gradients = {
            wrt: program(f"gradient_{wrt}", self.one.gradient(wrt), seed, seed, seed, batch)
            for wrt in ("params", "alphas", "both")
        }
        self._programs = {
            "init": program("init", self.one.init, seed),
            "prepare": program("prepare", self.one.prepare, *both, gives=BATCH),
            "product": program("product", self.one.product, seed, seed, seed, seed, batch),
            "lookahead": program("lookahead", self.one.lookahead, seed, seed, seed, SCALAR),
            "perturb": program("perturb", self.one.perturb, seed, seed),
            "quotient": program("quotient", self.one.quotient, seed, seed, seed),
            "alpha_step": program(
                "alpha_step",
                self.one.alpha_step,
                seed,
                seed,
                seed,
                seed,
                seed,
                SCALAR,
                donate=(1, 2),
            ),
            "weight_step": program(
                "weight_step", self.one.weight_step, seed, seed, seed, seed, SCALAR, donate=(0,)
            ),
            "evaluate": program(
                "evaluate",
                self.one.evaluate,
                seed,
                seed,
                SHARED,
                SHARED,
                SHARED,
                SCALAR,
                donate=(1,),
            ),
        }
        self.passes = Passes(
            gradient=self._pass,
            lookahead=self._programs["lookahead"],
            product=self._programs["product"],
            perturb=self._programs["perturb"],
            quotient=self._programs["quotient"],
        )

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

    def _pass(self, params, stats, alphas, batch, wrt="both"):
        out = self._gradients[wrt](params, stats, alphas, batch)
        return Gradient(out["params"], out["alphas"], out["stats"], out["metrics"])

    def prepare(self, state, batch):
        """Returns {"train": (images, labels), "valid":
        ...} of a block's uint8 pictures [G, N, H, W, C], augmented.
        """
        return self._programs["prepare"](state.step, batch, state.key)

    def update(self, state, train, valid, rate, *, architect=True):
        """Returns (state, metrics) after one step of one block on prepared batches at a learning
        rate.

        architect: whether alphas move.  Metrics, f[G] each: loss and accuracy (per cent) on the
        training batch before the weight step, grad_norm before clipping, alive; with `architect`
        valid_loss, valid_accuracy (of the batch that the
        alpha gradient was taken on), alpha_grad_norm, and the tree alpha_grads.
        """
        rate = np.asarray(rate, self.one.real)
        stats, extra = state.stats, {}
        if architect:
            momentum = optim.momentum_buffer(state.weight_opt)
            hyper = self.hypergradient(
                self.passes, state.params, stats, state.alphas, momentum, rate, train, valid
            )
            alive, alphas, alpha_opt, extra = self._programs["alpha_step"](
                state.alive, state.alphas, state.alpha_opt, hyper.direct, hyper.implicit, rate
            )
            if self.config.method.architect_statistics == "move":
                stats = hyper.stats
            extra |= {f"valid_{name}": value for name, value in hyper.metrics.items()}
            state = dataclasses.replace(state, alive=alive, alphas=alphas, alpha_opt=alpha_opt)
        here = self._pass(state.params, stats, state.alphas, train, self.weight_wrt)
        state, metrics = self._programs["weight_step"](
            state, here.stats, here.params, here.metrics, rate
        )
        return state, metrics | extra

    def __call__(self, blocks, batches, rate, *, architect=True):
        """Returns (blocks, metrics of each block) after one step of every seed;
        the blocks given are used up.
        """
        moved, metrics = [], []
        for state, batch in zip(blocks, batches, strict=True):
            ready = self.prepare(state, batch)
            state, seen = self.update(
                state, ready["train"], ready["valid"], rate, architect=architect
            )
            moved.append(state)
            metrics.append(seen)
        return tuple(moved), metrics

    def evaluate(self, blocks, batches):
        """Returns each block's sums of loss, right answers and examples, f[G], over batches of
        all processes.

        batches: iterable of this process's {"image": uint8[n, H, W, C], "label": int32[n],
        "mask": bool[n]}.
        """
        totals = [jax.tree.map(jnp.zeros_like, state.totals) for state in blocks]
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

        stream, shown = pictures(groups, batch), pictures(batch)
        state = self._programs["init"](jax.ShapeDtypeStruct((groups,), jnp.int32))
        ready = self.prepare(state, {"train": stream, "valid": stream})
        if self.config.method.warmup_epochs:
            self.update(state, ready["train"], ready["valid"], 0.1, architect=False)
        state, _ = self.update(state, ready["train"], ready["valid"], 0.1)
        mask = jax.ShapeDtypeStruct((batch,), bool)
        self._programs["evaluate"](
            state, state.totals, shown["image"], shown["label"], mask, np.int32(0)
        )

    def compile(self, image_shape):
        """Compiles every program of a step on uint8 pictures [H, W, C];
        returns {"trace_s", "compile_s"}.
        """
        began = time.perf_counter()
        self.trace(image_shape)
        traced = time.perf_counter() - began
        times = compile_all(self.programs.values())
        return {"trace_s": times["trace_s"] + traced, "compile_s": times["compile_s"]}
