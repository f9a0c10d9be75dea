"""A search over pictures in memory: step after step, on the devices of all processes.

Place: layer 3, between the step's programs (`steps`) and the verb (`search`), which adds folder,
loop and records. It knows no files and prints nothing; from Python it is `darts_dist.Search`.

Letters: S seeds, n rows of this process, H W pixels, C channels, E edges, K operations.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from darts_dist import cluster
from darts_dist.config import Config
from darts_dist.data import pipeline, sources
from darts_dist.data.sources import Pictures
from darts_dist.errors import ConfigError
from darts_dist.genotype import Genotype
from darts_dist.seedwork import State
from darts_dist.spaces import derive
from darts_dist.steps import SearchStep

States = tuple[State, ...]


class Search:
    """The searches of a config's seeds, side by side; States go in, moved ones come out.

    config: what is searched and how; its schedule, folders and records do not matter here.
    pictures: uint8 training pictures; what config and they leave open (mean, std, classes) is
    measured.  States are one State for each turn in which the groups of devices work (`steps`);
    `join` makes one of them.  Raises ConfigError or DataError where config, pictures and devices do
    not fit each other.

    seeds: all seed numbers.  epoch_steps: steps in a pass over the weight half, or as configured.
    """

    def __init__(self, config: Config, pictures: Pictures) -> None:
        """Builds everything up to the programs; nothing is compiled yet."""
        self.config, self.pictures = config, sources.fit(config, pictures)
        data, batch = config.data, config.data.global_batch
        self.seeds = [config.seeds.first + at for at in range(config.seeds.count)]
        self.mesh = cluster.make_mesh(config.seeds.count, config.mesh.seed, config.mesh.data)
        positions, self.rows = cluster.local_block(self.mesh, config.seeds.count, batch)
        self.own_seeds = [self.seeds[at] for at in positions]
        self._check_groups()
        count = len(self.pictures.labels)
        self.halves = pipeline.halves(count, data.train_fraction, data.split, batch)
        self.epoch_steps = config.schedule.steps_per_epoch or max(len(self.halves[0]) // batch, 1)
        self.programs = SearchStep(
            config,
            self.mesh,
            classes=len(self.pictures.class_names),
            mean=self.pictures.mean,
            std=self.pictures.std,
            epoch_steps=self.epoch_steps,
        )

    def _check_groups(self) -> None:
        kind, _, size = self.config.batch_norm.sync.partition(":")
        local = self.config.data.global_batch // self.mesh.shape["data"]
        if kind == "group" and local % int(size):
            raise ConfigError(
                f"batch_norm.sync=group:{size} does not divide the {local} examples that a "
                f"device holds (data.global_batch over mesh.data={self.mesh.shape['data']}); use a "
                f"divisor of {local}"
            )

    def compile(self) -> dict[str, float]:
        """Compiles all programs side by side, which the first step would do one after the other;
        returns {"trace_s", "compile_s"}.
        """
        return self.programs.compile(self.pictures.images.shape[1:])

    def init(self) -> States:
        """Returns the first states."""
        return self.programs.init(self.seeds)

    def batches(self, start: int = 0) -> Iterator[dict[str, dict[str, np.ndarray]]]:
        """Returns an endless iterator of this process's part of the batches of steps start, ...

        An item is {"train": {"image": uint8[S, n, H, W, C], "label": int32[S, n]}, "valid": ...},
        S of the seeds that this process holds. It has `close`.
        """
        return pipeline.search_batches(
            self.pictures,
            self.halves,
            seeds=self.own_seeds,
            rows=self.rows,
            global_batch=self.config.data.global_batch,
            start=start,
            threads=self.config.data.threads,
        )

    def step(
        self, states: States, batch: Any, rate: float, *, architect: bool = True
    ) -> tuple[States, dict[str, jax.Array]]:
        """Returns (states, metrics f[S]) after one bilevel step; the states given are used up.

        batch: of `batches`, or like it.  rate: of SGD on the weights.  architect: whether the
        alphas move, before the weights do.
        """
        states, seen = self.programs(
            states, self.programs.place_batches(batch), rate, architect=architect
        )
        for one in seen:
            one.pop("alpha_grads", None)
        return states, self.programs.join(seen)

    def evaluate(self, states: States) -> dict[str, jax.Array]:
        """Returns sums of loss and of right answers, and the count, f[S], over the alpha half."""
        limit = self.config.evaluation.examples
        batches = pipeline.evaluation_batches(
            self.pictures,
            self.halves[1][:limit] if limit else self.halves[1],
            rows=self.rows,
            global_batch=self.config.data.global_batch,
        )
        return self.programs.join(self.programs.evaluate(states, batches))

    def join(self, states: States) -> State:
        """Returns the states of all seeds in one, its leaves [S, ...]."""
        return self.programs.join(states)

    def split(self, state: State) -> States:
        """Returns the states that `join` made one of."""
        return self.programs.split(state)

    def show(self, states: States, *names: str) -> dict[str, Any]:
        """Returns the named fields of the state of all seeds; the rest is not copied."""
        return self.programs.join(
            [{name: getattr(state, name) for name in names} for state in states]
        )

    def derive(self, states: States) -> list[Genotype]:
        """Returns each seed's genotype as its alphas are now."""
        alphas = jax.device_get(cluster.gather(self.show(states, "alphas")["alphas"]))
        operations = self.config.space.operations
        return [
            derive.from_alphas({cell: a[at] for cell, a in alphas.items()}, operations)
            for at in range(len(self.seeds))
        ]
