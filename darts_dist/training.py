"""Training networks of one genotype: what `train`, `select` and `evaluate` work on.

Place: layer 3, a kind of `task`. Letters: S seeds.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from darts_dist import genotype, optim
from darts_dist.data import pipeline, sources
from darts_dist.data.augment import Recipe
from darts_dist.data.sources import AnyPictures
from darts_dist.errors import ConfigError
from darts_dist.genotype import CnnGenotype
from darts_dist.models import TrainModel
from darts_dist.seedwork import OneSeed
from darts_dist.spaces import table
from darts_dist.steps import Step
from darts_dist.task import PictureTask, States
from darts_dist.trainconfig import TrainConfig


class Training(PictureTask):
    """Independent trainings of one genotype's network, one a seed, side by side.

    pictures: uint8 training pictures; what config and they leave open (mean, std, classes) is
    measured.  scored: pictures to score on; None: those that data.train_fraction keeps
    from training.  The same for both: the task only scores.
    Raises ConfigError or DataError where config, pictures and devices do not fit each other.
    """

    config: TrainConfig

    def __init__(
        self,
        config: TrainConfig,
        value: CnnGenotype,
        pictures: AnyPictures,
        scored: AnyPictures | None,
    ) -> None:
        """Builds everything up to the programs; nothing is compiled yet."""
        super().__init__(config, sources.fit(config, pictures))
        data, batch = config.data, config.data.global_batch
        self.genotype, count = value, len(self.pictures.labels)
        if data.train_fraction < 1:
            trained, self.held = pipeline.halves(count, data.train_fraction, data.split)
            self.scored = self.pictures
        elif scored is None:
            raise ConfigError("data.train_fraction = 1 leaves no pictures to score on; wanted less")
        else:
            trained, self.held = np.arange(count), np.arange(len(scored.labels))
            sources.check_sizes(config, scored)
            self.scored = scored
        if len(trained) < batch and pictures is not scored:
            raise ConfigError(
                f"data.global_batch={batch} is more than the {len(trained)} pictures that train; "
                "use more pictures, or a smaller batch"
            )
        check_accumulate(config, self.local_batch)
        self.parts = {"train": trained}
        self.epoch_steps = config.schedule.steps_per_epoch or max(len(trained) // batch, 1)
        self.programs = make_step(
            config,
            self.mesh,
            value,
            classes=len(self.pictures.class_names),
            mean=self.pictures.mean,
            std=self.pictures.std,
            epoch_steps=self.epoch_steps,
        )
        self._rate = _schedule(config)
        self._strength = optim.ramp(config.regularisation.drop_path, config.schedule.epochs)

    @functools.cached_property
    def parameters(self) -> int:
        """The network's weights, those of the auxiliary head not counted."""
        return table.count(self._shapes_of_weights() | {"auxiliary": {}})

    @property
    def scored_on(self) -> str:
        """What it is scored on: pictures "held_out" of those that train, or the "test" set."""
        return "held_out" if self.scored is self.pictures else "test"

    @property
    def multiply_adds(self) -> int:
        """The network's multiply-adds for one picture, in use (`nets.costs`)."""
        return table.multiply_adds(self.config, self.genotype, len(self.pictures.class_names))

    def init_with(self, params: Any, stats: Any) -> States:
        """Returns the first states, every seed's with these weights and statistics.

        params, stats: trees of arrays like those of one seed, in any floating point.
        """

        def put(value, leaf):
            every = np.broadcast_to(np.asarray(value, leaf.dtype), leaf.shape)
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda at: every[at])

        states = []
        for state in self.init():
            taken = jax.tree.map(put, (params, stats), (state.params, state.stats))
            average = taken if self.config.weights.average else ()
            states.append(
                dataclasses.replace(state, params=taken[0], stats=taken[1], average=average)
            )
        return tuple(states)

    def rate(self, epoch: int) -> float:
        """Returns the learning rate in an epoch, counted from 0."""
        return self._rate(epoch)

    def advance(self, states: States, batch: Any, epoch: int) -> tuple[States, Any]:
        """Returns (states, metrics f[S]) after one step as the config's schedules have it."""
        states, seen = self.programs(
            states,
            self.programs.place_batches(batch),
            self.rate(epoch),
            strength=self._strength(epoch),
        )
        return states, self.programs.join(seen)

    def evaluate(self, states: States) -> dict[str, jax.Array]:
        """Returns sums of loss, of right answers (first, and among five), and the count, f[S]."""
        limit = self.config.evaluation.examples
        return self.score(states, self.scored, self.held[:limit] if limit else self.held)

    def table(self) -> str:
        """Returns the network as a table of its parts (`spaces.table`)."""
        classes, shapes = len(self.pictures.class_names), self._shapes_of_weights()
        return table.of_genotype(self.config, self.genotype, classes, shapes, self.local_batch)

    def about(self) -> dict[str, Any]:
        """Returns what a checkpoint has to tell besides config and state, as JSON."""
        return {"genotype": json.loads(genotype.to_json(self.genotype)), **super().about()}


def check_accumulate(config: TrainConfig, local_batch: int) -> None:
    """Raises ConfigError where a device's pictures do not divide into the parts asked for."""
    parts = config.data.accumulate
    if local_batch % parts:
        raise ConfigError(
            f"data.accumulate={parts} does not divide the {local_batch} "
            f"pictures of a device; use a divisor of {local_batch}"
        )


def make_step(
    config: TrainConfig,
    mesh: Any,
    value: CnnGenotype,
    *,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    epoch_steps: int,
    layout: str | None = None,
) -> Step:
    """Returns the programs of training a genotype's network; arguments as of `SearchStep`."""
    data = config.data
    model = TrainModel(config, value, classes, Recipe.of(data, mean, std), layout)
    one = OneSeed(config, model, epoch_steps, data.accumulate, config.weights.average)
    return Step(config, mesh, one)


def _schedule(config: TrainConfig):
    """Returns epoch -> learning rate."""
    weights, epochs = config.weights, config.schedule.epochs
    warm = weights.warmup_epochs
    if weights.schedule == "step":
        after = optim.step(weights.learning_rate, weights.decay, weights.period)
    else:
        after = optim.cosine(
            weights.learning_rate, weights.learning_rate_min, max(epochs - warm, 1)
        )

    def at(epoch):
        if epoch < warm:
            return weights.learning_rate * (epoch + 1) / (warm + 1)
        return after(epoch - warm)

    return at
