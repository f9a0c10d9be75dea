"""A search, or trainings, of recurrent cells on a text in memory.

Place: layer 3, two kinds of `task`. The text lies in columns, one an example; window after window,
the hidden states of the columns are carried on. Letters: S seeds, R rows, B columns.
"""

import dataclasses
import functools
import json
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from darts_dist import cluster, genotype, textdata, textsteps
from darts_dist.config import TextConfig
from darts_dist.data import pipeline, text, windows
from darts_dist.data.text import Corpus
from darts_dist.errors import ConfigError
from darts_dist.genotype import RnnGenotype
from darts_dist.programs import SEED
from darts_dist.spaces import rnn, table
from darts_dist.task import States, Task
from darts_dist.textmodels import padded
from darts_dist.textsteps import TextSearchStep, TextStep
from darts_dist.trainconfig import TextTrainConfig


def load(config: Any) -> Corpus:
    """Returns the texts that a config names; DataError for what is on disk."""
    data = config.data
    if data.kind == "sample":
        return text.load_sample(new_words=data.new_words)
    return text.read(data.path, new_words=data.new_words)


class TextTask(Task):
    """A task on texts; a kind sets `programs`."""

    unit = "words"
    config: Any

    def __init__(self, config: Any, corpus: Corpus):
        """Cuts the texts; ConfigError where config, texts and devices do not fit each other."""
        super().__init__(config)
        data = config.data
        self.corpus, self.step_examples = corpus, data.global_batch * data.window
        self.windows = textdata.cut(
            config, corpus, seeds=self.seeds, own=self.own_seeds, columns=self.rows
        )
        self.epoch_steps = textdata.steps_of_epoch(config, len(self.windows.texts["train"]))
        self.valid = textdata.scored_columns(config, corpus, "valid")

    def _wide(self, count: int) -> int:
        return textdata.wide(count, self.mesh.shape["data"])

    def sizes(self) -> Any:
        """Returns the lengths of windows and the columns of what is scored."""
        return self.windows.sizes, [self._wide(self.valid.shape[1])]

    def batches(self, start: int = 0) -> Iterator[Any]:
        """Returns an endless iterator of this process's part of the windows of steps start, ...

        Items are those of `data.windows.Batches`.
        """
        return pipeline.read_ahead(self.windows, start, self.config.data.threads)

    def rate(self, epoch: int) -> float:
        """Returns the learning rate of the weights for a window of full length, in any epoch."""
        del epoch
        return self.config.weights.learning_rate

    def step(
        self, states: States, batch: Any, rate: float, **how: Any
    ) -> tuple[States, dict[str, jax.Array]]:
        """Returns (states, metrics f[S]) after one step; the states given are used up.

        batch: of `batches`, or like it.  rate: for a window of full length.
        """
        programs, wanted = self.programs, batch["train"]["rate"]
        rates = [
            programs.place((rate * wanted[at :: programs.blocks]).astype(programs.one.real), SEED)
            for at in range(programs.blocks)
        ]
        placed = programs.place_batches({name: _by_row(one) for name, one in batch.items()})
        states, seen = programs(states, placed, rates, **how)
        for one in seen:
            one.pop("alpha_grads", None)
        return states, programs.join(seen)

    def evaluate(self, states: States) -> dict[str, jax.Array]:
        """Returns sums of the loss of words, and their count, f[S], over the validation text."""
        return self.programs.join(self.score(states, self.valid))

    def score(self, states: States, rows: np.ndarray) -> list[dict[str, jax.Array]]:
        """Returns each block's sums over a text in columns, int32[R, B]; every word counts once.

        The first row is given, not predicted; with evaluation.mean = "original" it is counted.
        """
        count = self._wide(rows.shape[1])
        _, own = cluster.local_block(self.mesh, len(self.seeds), count)
        cuts = (
            {name: array[own] for name, array in padded(window, count).items()}
            for window in windows.evaluation_windows(rows, self.config.data.window)
        )
        sums = self.programs.evaluate(states, cuts, count)
        if self.config.evaluation.mean == "original":
            more = len(rows) / (len(rows) - 1)
            sums = [one | {"count": one["count"] * more} for one in sums]
        return sums

    def _checksums(self) -> dict[str, str]:
        texts = {name: getattr(self.corpus, name) for name in text.SPLITS}
        sums = {name: f"{zlib.crc32(one.tobytes()):08x}" for name, one in texts.items()}
        return {**sums, "words": f"{zlib.crc32(' '.join(self.corpus.words).encode()):08x}"}

    def identity(self) -> dict[str, str]:
        """Returns what processes compare to know that they hold the same texts, by name."""
        return {f"the crc32 of {name}": value for name, value in self._checksums().items()}

    def about(self) -> dict[str, Any]:
        """Returns what a checkpoint has to tell besides config and state, as JSON."""
        return {"texts": self._checksums()}


def _by_row(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of a stream with a row for each column of the text."""
    shape = batch["tokens"].shape[:2]
    wide = {
        name: np.ascontiguousarray(np.broadcast_to(batch[name][:, None], shape))
        for name in ("length", "starts")
    }
    return {"tokens": batch["tokens"], "targets": batch["targets"], **wide}


class TextSearch(TextTask):
    """The searches of a config's seeds; "train" trains the weights, "valid" the alphas.

    Raises ConfigError where config, texts and devices do not fit each other.
    """

    shown = ("alphas", "totals", "alive")
    config: TextConfig
    programs: TextSearchStep

    def __init__(self, config: TextConfig, corpus: Corpus) -> None:
        """Builds everything up to the programs; nothing is compiled yet."""
        super().__init__(config, corpus)
        columns, devices = config.evaluation.batch, self.mesh.shape["data"]
        if config.evaluation.statistics == "batch" and (columns % devices or columns < 2 * devices):
            raise ConfigError(
                f"evaluation.statistics=batch: evaluation.batch={columns} does not give each of "
                f"the {devices} devices of a seed as many columns, two or more; use {2 * devices}, "
                f"{3 * devices}, ... or fewer devices (mesh.data)"
            )
        words = len(corpus.words)
        self.programs = textsteps.make_search(config, self.mesh, words, self.epoch_steps)

    def advance(self, states: States, batch: Any, epoch: int) -> tuple[States, Any]:
        """Returns (states, metrics f[S]) after one step as the config's schedules have it."""
        architect = epoch >= self.config.method.warmup_epochs
        return self.step(states, batch, self.rate(epoch), architect=architect)

    def table(self) -> str:
        """Returns the network as a table of its parts (`spaces.table`)."""
        nodes = self.config.network.nodes
        return table.of_language(self._shapes_of_weights(), nodes * (nodes + 1) // 2)

    def derive(self, states: States) -> list[RnnGenotype]:
        """Returns each seed's genotype as its alphas are now."""
        alphas = jax.device_get(cluster.gather(self.show(states, "alphas")["alphas"]))
        return [
            rnn.derive_genotype(
                {cell: a[at] for cell, a in alphas.items()}, self.config.space.operations
            )
            for at in range(len(self.seeds))
        ]


class TextTraining(TextTask):
    """Independent trainings of one recurrent cell, one a seed, side by side.

    Raises ConfigError where config, texts and devices do not fit each other.
    """

    shown = ("totals", "alive", "course")
    scored_on = "valid"
    config: TextTrainConfig
    programs: TextStep

    def __init__(self, config: TextTrainConfig, value: RnnGenotype, corpus: Corpus) -> None:
        """Builds everything up to the programs; nothing is compiled yet."""
        super().__init__(config, corpus)
        self.genotype, words = value, len(corpus.words)
        self.test = textdata.scored_columns(config, corpus, "test")
        self.programs = textsteps.make_training(config, self.mesh, value, words, self.epoch_steps)

    def sizes(self) -> Any:
        """Returns the lengths of windows and the columns of what is scored."""
        lengths, scored = super().sizes()
        return lengths, list(dict.fromkeys((*scored, self._wide(self.test.shape[1]))))

    def show(self, states: States, *names: str) -> dict[str, Any]:
        """Returns the named fields of the state of all seeds; of the course all but weights."""
        short = [
            dataclasses.replace(
                state,
                course={
                    name: state.course[name] for name in ("averages", "best_loss", "rollbacks")
                },
            )
            for state in states
        ]
        return super().show(tuple(short), *names)

    def advance(self, states: States, batch: Any, epoch: int) -> tuple[States, Any]:
        """Returns (states, metrics f[S]) after one step as the config's schedules have it."""
        return self.step(states, batch, self.rate(epoch))

    def end_epoch(self, states: States) -> tuple[States, dict[str, jax.Array]]:
        """Returns (states, sums) after an evaluation: best weights kept, averaging maybe begun."""
        sums = self.score(states, self.valid)
        return self.programs.settle(states, sums), self.programs.join(sums)

    def shapes(self) -> Any:
        """Returns the shapes of the network's weights, a tree."""
        return self._shapes_of_weights()

    def init_with(self, params: Any) -> States:
        """Returns the first states, every seed's with these weights, which count as its best.

        params: a tree of arrays like that of one seed, in any floating point.
        """

        def put(value, leaf):
            every = np.broadcast_to(np.asarray(value, leaf.dtype), leaf.shape)
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda at: every[at])

        states = []
        for state in self.init():
            own, average, best = (jax.tree.map(put, params, state.params) for _ in range(3))
            averaging = dataclasses.replace(state.averaging, average=average)
            course = state.course | {"best": best}
            states.append(
                dataclasses.replace(state, params=own, averaging=averaging, course=course)
            )
        return tuple(states)

    def best(self, states: States) -> States:
        """Returns states that evaluations see the best weights so far of."""
        return tuple(
            dataclasses.replace(
                state,
                averaging=dataclasses.replace(state.averaging, average=state.course["best"]),
            )
            for state in states
        )

    def last_scores(self, states: States) -> dict[str, Any]:
        """Returns each seed's scores with its best weights: on the validation and the test text."""
        best = self.best(states)
        found = {}
        for part, rows in (("valid", self.valid), ("test", self.test)):
            sums = self.programs.join(self.score(best, rows))
            found[f"{part}_loss"] = sums["loss"] / sums["count"]
        return found

    @functools.cached_property
    def parameters(self) -> int:
        """The network's weights; the matrix of words counts once."""
        return table.count(self._shapes_of_weights())

    @property
    def multiply_adds(self) -> int:
        """The network's multiply-adds for one word, in use."""
        parts = table.language_parts(self._shapes_of_weights(), len(self.genotype.recurrent))
        return sum(parts.values())

    def table(self) -> str:
        """Returns the network as a table of its parts (`spaces.table`)."""
        return table.of_language(self._shapes_of_weights(), len(self.genotype.recurrent))

    def about(self) -> dict[str, Any]:
        """Returns what a checkpoint has to tell besides config and state, as JSON."""
        return {"genotype": json.loads(genotype.to_json(self.genotype)), **super().about()}
