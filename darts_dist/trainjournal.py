"""What training tells while it runs and when it ends: its pages, a line an epoch, the standings.

It works on numbers that were fetched already, as `journal` does for a search. Letters: S seeds.
"""

from typing import Any

import numpy as np
from etils import epath

from darts_dist import genotype, metrics, schema
from darts_dist.events import Events
from darts_dist.journal import standings
from darts_dist.metrics import Recorder
from darts_dist.tellings import TELLINGS
from darts_dist.texttask import TextTraining
from darts_dist.training import Training

KEYS = {
    "cnn": (
        "train_loss",
        "train_accuracy",
        "valid_loss",
        "valid_accuracy",
        "valid_error",
        "valid_error_top5",
    ),
    "rnn": ("train_loss", "train_perplexity", "valid_loss", "valid_perplexity"),
}

METRICS = {
    "cnn": ("accuracy/valid", "loss/valid", "accuracy/valid_top5", "progress/epoch"),
    "rnn": ("perplexity/valid", "loss/valid", "progress/epoch"),
}
"""Numbers of the HPARAMS tab: the last that there are."""

PICTURE_HPARAMS = (
    "genotype",
    "network.channels",
    "network.layers",
    "data.kind",
    "data.global_batch",
    "data.cutout_px",
    "batch_norm.sync",
    "precision.compute",
    "weights.learning_rate",
    "weights.weight_decay",
    "weights.schedule",
    "regularisation.drop_path",
    "regularisation.auxiliary_weight",
    "regularisation.label_smoothing",
)
TEXT_HPARAMS = (
    "genotype",
    "network.channels",
    "data.kind",
    "data.global_batch",
    "data.window",
    "precision.compute",
    "weights.learning_rate",
    "weights.weight_decay",
    "weights.average",
    "regularisation.dropout_output",
    "regularisation.dropout_hidden",
)
HPARAMS = {"cnn": PICTURE_HPARAMS, "rnn": TEXT_HPARAMS}
"""Knobs of the HPARAMS tab: none of those that a resumed run may change (`pages.HPARAMS`)."""


class TrainJournal:
    """Turns numbers of training into records; `seeds` is in the order of the arrays."""

    def __init__(self, task: Training | TextTraining, recorder: Recorder, events: Events) -> None:
        """Writes through `recorder` and `events`."""
        self.task, self.config, self.seeds = task, task.config, task.seeds
        self.kind = task.config.space.kind
        self.telling = TELLINGS[self.kind]
        self.recorder, self.events = recorder, events

    def begin(self) -> None:
        """Says what each seed's run is, new or resumed."""
        knobs = schema.flat(self.config)
        chosen = {key: knobs[key] for key in HPARAMS[self.kind]}
        for seed in self.seeds:
            self.events.hparams(seed, {"seed": seed, **chosen}, METRICS[self.kind])

    def step(self, done: int, values: dict[str, np.ndarray], step_s: float, rate: float) -> None:
        """Writes the numbers of one step, f[S] each, and shows how far the run is."""
        speed = self.task.step_examples * len(self.seeds) / max(step_s, 1e-9)
        for at, seed in enumerate(self.seeds):
            tags = {
                **self.telling.step(values, at),
                "gradient_norm/weights": float(values["grad_norm"][at]),
                "learning_rate/weights": rate,
                "speed/examples_per_s": speed,
                "speed/step_ms": 1000 * step_s,
            }
            self.events.write(done, seed, tags)
        losses = " ".join(f"{loss:.3f}" for loss in values["loss"])
        self.recorder.progress(
            done, f"loss {losses}  {1000 * step_s:.0f} ms  {speed:.0f} {self.task.unit}/s"
        )

    def epoch(self, epoch: int, done: int, seen: dict[str, Any]) -> None:
        """Writes a line and numbers of each seed after an epoch that was scored.

        seen: alive bool[S], and the sums `totals`, `valid`, f[S] each.
        """
        if "valid" not in seen:
            return
        lines = []
        for at, seed in enumerate(self.seeds):
            line = {
                "epoch": epoch,
                "step": done,
                "seed": seed,
                "alive": bool(seen["alive"][at]),
                **self.telling.line("train", seen["totals"], at),
                **self.telling.line("valid", seen["valid"], at),
            }
            text = f"epoch {epoch} seed {seed}: {self.telling.text(line)}"
            if "course" in seen:
                line["averages"] = averages = bool(seen["course"]["averages"][at])
                line["rollbacks"] = back = int(seen["course"]["rollbacks"][at])
                text += ", averaging" if averages else ""
                text += f", went back to its best weights {back} times so far" if back else ""
            lines.append(line)
            tags = {"progress/epoch": epoch, **self.telling.epoch(line)}
            self.events.write(done, seed, tags)
            self.recorder.message(text)
        self.recorder.epoch(lines)

    def standings(
        self, total: int, alive: np.ndarray, last: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """Returns seeds, best_seed and metrics of result.json after `total` steps.

        last: f[S] by name, in place of what the last epoch said.
        """
        more = [self.telling.last(last, at) for at in range(len(self.seeds))]
        lines = [line | more[self.seeds.index(line["seed"])] for line in self.recorder.lines]
        keys = tuple(dict.fromkeys((*KEYS[self.kind], *more[0])))
        found = standings(lines, self.seeds, total, alive, keys)
        value = genotype.to_dict(self.task.genotype)
        found["seeds"] = [{**one, "genotype": value} for one in found["seeds"]]
        found["metrics"]["parameters"] = self.task.parameters
        found["metrics"]["multiply_adds"] = self.task.multiply_adds
        found["metrics"]["scored_on"] = self.task.scored_on
        return found

    def leave(self, folder: epath.Path, result: dict[str, Any]) -> None:
        """Writes the genotype that was trained."""
        del result
        text = genotype.to_json(self.task.genotype)
        metrics.write_whole(folder / "genotype.json", text + "\n")
