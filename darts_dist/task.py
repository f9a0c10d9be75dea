"""What a run works on: the states of all its seeds, step after step, on all processes' devices.

Place: layer 3, between a step's programs (`steps`) and a run with its folder (`run`). `bilevel` and
`training` are the two kinds on pictures, `texttask` has those on texts. It knows no files and
prints nothing.

Letters: S seeds, n rows of this process, H W pixels, C channels.
"""

import abc
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import msgspec
import numpy as np
from etils import epath

from darts_dist import cluster
from darts_dist import config as configs
from darts_dist.data import pipeline, sources
from darts_dist.data.sources import AnyPictures
from darts_dist.errors import ConfigError
from darts_dist.keeping import KeptPrograms
from darts_dist.seedwork import State
from darts_dist.steps import Step
from darts_dist.trainconfig import AnyConfig

States = tuple[State, ...]


class Task(abc.ABC):
    """Seeds side by side; States go in, moved ones come out.

    States are one State for each turn in which the groups of devices work (`steps`); `join` makes
    one of them.  seeds: all seed numbers.  epoch_steps: steps in a pass over what trains the
    weights, or as configured.  step_examples: of `unit`, in a step of one seed.  A kind sets these
    and `programs`, and says what a step and an evaluation are.
    """

    shown: tuple[str, ...] = ("totals", "alive")
    """Fields of State that are told after each epoch."""
    programs: Step
    epoch_steps: int
    step_examples: int
    unit: str

    def __init__(self, config: AnyConfig) -> None:
        """Lays the mesh out; ConfigError where the devices do not fit the config."""
        self.config = config
        self.seeds = [config.seeds.first + at for at in range(config.seeds.count)]
        self.mesh = cluster.make_mesh(config.seeds.count, config.mesh.seed, config.mesh.data)
        batch = config.data.global_batch
        positions, self.rows = cluster.local_block(self.mesh, config.seeds.count, batch)
        self.own_seeds = [self.seeds[at] for at in positions]
        self.local_batch = batch // self.mesh.shape["data"]
        check_groups(config, self.local_batch, self.mesh.shape["data"])

    def compile(self, keep: str = "") -> dict[str, float]:
        """Compiles all programs side by side, which the first step would do one after the other;
        returns {"trace_s", "compile_s"}.

        keep: folder that spares the tracing where it was done before (`keeping`).
        """
        kept = KeptPrograms(epath.Path(keep), self._traced_from()) if keep else None
        return self.programs.compile(self.sizes(), kept)

    def _traced_from(self) -> dict[str, Any]:
        """What programs follow from besides sources, versions and jax's options, as JSON."""
        device = self.mesh.devices.flat[0]
        seeds = msgspec.structs.replace(self.config.seeds, first=0)  # programs take their numbers
        return {
            "config": configs.config_hash(msgspec.structs.replace(self.config, seeds=seeds)),
            "data": [self.about(), self.epoch_steps, repr(self.sizes())],
            "mesh": [dict(self.mesh.shape), jax.process_count()],
            "device": [device.platform, device.device_kind],
        }

    @abc.abstractmethod
    def sizes(self) -> Any:
        """Returns the sizes of what is shown, as the model's `shapes` takes them."""

    def init(self) -> States:
        """Returns the first states."""
        return self.programs.init(self.seeds)

    @abc.abstractmethod
    def batches(self, start: int = 0) -> Iterator[Any]:
        """Returns an endless iterator of this process's part of the batches of steps start, ...

        It has `close`.
        """

    @abc.abstractmethod
    def rate(self, epoch: int) -> float:
        """Returns the learning rate of the weights in an epoch, counted from 0."""

    @abc.abstractmethod
    def advance(self, states: States, batch: Any, epoch: int) -> tuple[States, Any]:
        """Returns (states, metrics f[S]) after one step as the config's schedules have it."""

    @abc.abstractmethod
    def evaluate(self, states: States) -> dict[str, jax.Array]:
        """Returns sums of scores, and the count, f[S]."""

    def end_epoch(self, states: States) -> tuple[States, dict[str, jax.Array]]:
        """Returns (states, sums of `evaluate`) after an epoch that is evaluated."""
        return states, self.evaluate(states)

    def last_scores(self, states: States) -> dict[str, Any]:
        """Returns what is told of the finished states besides their last evaluation, f[S]."""
        del states
        return {}

    @abc.abstractmethod
    def identity(self) -> dict[str, str]:
        """Returns what processes compare to know that they hold the same data, by name."""

    @abc.abstractmethod
    def table(self) -> str:
        """Returns the network as a table of its parts (`spaces.table`)."""

    def _shapes_of_weights(self) -> Any:
        return jax.eval_shape(self.programs.one.model.init, jax.random.key(0))[0]

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """Returns what a checkpoint has to tell besides config and state, as JSON."""

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


class PictureTask(Task):
    """A task on pictures; pictures: that train.  A kind sets `parts`, their indices by stream."""

    parts: Mapping[str, np.ndarray]
    unit = "pictures"

    def __init__(self, config: Any, pictures: AnyPictures) -> None:
        """Lays the mesh out; ConfigError where the devices do not fit the config."""
        super().__init__(config)
        self.pictures, self.step_examples = pictures, config.data.global_batch

    def sizes(self) -> Any:
        """Returns the shape [H, W, C] of a picture."""
        return self.pictures.shape

    def batches(self, start: int = 0) -> Iterator[dict[str, dict[str, np.ndarray]]]:
        """Returns an endless iterator of this process's part of the batches of steps start, ...

        An item is {"image": uint8[S, n, H, W, C], "label": int32[S, n]} by stream, S of the seeds
        that this process holds. It has `close`.
        """
        return pipeline.batches(
            self.pictures,
            self.parts,
            seeds=self.own_seeds,
            rows=self.rows,
            global_batch=self.config.data.global_batch,
            start=start,
            threads=self.config.data.threads,
        )

    def identity(self) -> dict[str, str]:
        """Returns what processes compare to know that they hold the same pictures, by name."""
        return sources.identity(self.pictures)

    def about(self) -> dict[str, Any]:
        """Returns what a checkpoint has to tell besides config and state, as JSON."""
        pictures = self.pictures
        return {
            "classes": list(pictures.class_names),
            "mean": list(pictures.mean),
            "std": list(pictures.std),
        }

    def score(self, states: States, pictures: AnyPictures, indices: np.ndarray) -> dict[str, Any]:
        """Returns sums of scores, and the count, f[S], over pictures[indices]."""
        batches = pipeline.evaluation_batches(
            pictures,
            indices,
            rows=self.rows,
            global_batch=self.config.data.global_batch,
            threads=self.config.data.threads,
        )
        return self.programs.join(self.programs.evaluate(states, batches))


def check_groups(config: AnyConfig, local_batch: int, data_axis: int) -> None:
    """Raises ConfigError where the groups of batch_norm.sync do not divide a device's examples."""
    kind, _, size = config.batch_norm.sync.partition(":")
    if kind == "group" and local_batch % int(size):
        raise ConfigError(
            f"batch_norm.sync=group:{size} does not divide the {local_batch} examples "
            f"that a device holds (data.global_batch over mesh.data={data_axis}); "
            f"use a divisor of {local_batch}"
        )
