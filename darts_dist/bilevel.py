"""A search over pictures: `darts_dist.Search` from Python, and what the verb runs.

Place: layer 3, a kind of `task`. Letters: S seeds, E edges, K operations.
"""

from typing import Any

import jax

from darts_dist import cluster, optim
from darts_dist.config import Config
from darts_dist.data import pipeline, sources
from darts_dist.data.sources import AnyPictures
from darts_dist.genotype import Genotype
from darts_dist.searchstep import SearchStep
from darts_dist.spaces import derive, table
from darts_dist.task import PictureTask, States


class Search(PictureTask):
    """The searches of a config's seeds, side by side; States go in, moved ones come out.

    config: what is searched and how; where records go does not matter here.
    pictures: uint8 training pictures; what config and they leave open (mean, std, classes) is
    measured.  layout: a name of `nets.layout.LAYOUTS`; None for the fastest here.
    Raises ConfigError or DataError where config, pictures and devices do not fit each
    other.
    """

    shown = ("alphas", "totals", "alive")
    config: Config

    def __init__(self, config: Config, pictures: AnyPictures, layout: str | None = None) -> None:
        """Builds everything up to the programs; nothing is compiled yet."""
        super().__init__(config, sources.fit(config, pictures))
        data, batch = config.data, config.data.global_batch
        count = len(self.pictures.labels)
        halves = pipeline.halves(count, data.train_fraction, data.split, batch)
        self.parts = dict(zip(pipeline.STREAMS, halves, strict=True))
        self.epoch_steps = config.schedule.steps_per_epoch or max(len(halves[0]) // batch, 1)
        self.programs: SearchStep = SearchStep(
            config,
            self.mesh,
            classes=len(self.pictures.class_names),
            mean=self.pictures.mean,
            std=self.pictures.std,
            epoch_steps=self.epoch_steps,
            layout=layout,
        )
        self._layout = layout
        weights = config.weights
        self._rate = optim.cosine(
            weights.learning_rate, weights.learning_rate_min, config.schedule.epochs
        )

    def _traced_from(self) -> dict[str, Any]:
        return super()._traced_from() | {"layout": self._layout}

    def rate(self, epoch: int) -> float:
        """Returns the learning rate of the weights in an epoch, counted from 0."""
        return self._rate(epoch)

    def advance(self, states: States, batch: Any, epoch: int) -> tuple[States, Any]:
        """Returns (states, metrics f[S]) after one step as the config's schedules have it."""
        architect = epoch >= self.config.method.warmup_epochs
        return self.step(states, batch, self.rate(epoch), architect=architect)

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
        half = self.parts["valid"]
        return self.score(states, self.pictures, half[:limit] if limit else half)

    def table(self) -> str:
        """Returns the network as a table of its parts (`spaces.table`)."""
        classes, shapes = len(self.pictures.class_names), self._shapes_of_weights()
        return table.of_search(self.config, classes, shapes, self.local_batch)

    def derive(self, states: States) -> list[Genotype]:
        """Returns each seed's genotype as its alphas are now."""
        alphas = jax.device_get(cluster.gather(self.show(states, "alphas")["alphas"]))
        operations = self.config.space.operations
        return [
            derive.from_alphas({cell: a[at] for cell, a in alphas.items()}, operations)
            for at in range(len(self.seeds))
        ]
