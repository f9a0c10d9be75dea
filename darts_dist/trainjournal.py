"""What training tells while it runs and when it ends: its pages, a line an epoch, the standings.

It works on numbers that were fetched already, as `journal` does for a search. Letters: S seeds.
"""

from typing import Any

import numpy as np
from etils import epath

from darts_dist import genotype, metrics, schema
from darts_dist.events import Events
from darts_dist.journal import averages, standings
from darts_dist.metrics import Recorder
from darts_dist.training import Training

KEYS = (
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
    "valid_error",
    "valid_error_top5",
)

METRICS = ("accuracy/valid", "loss/valid", "accuracy/valid_top5", "progress/epoch")
"""Numbers of the HPARAMS tab: the last that there are."""

HPARAMS = (
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
"""Knobs of the HPARAMS tab: none of those that a resumed run may change (`pages.HPARAMS`)."""


class TrainJournal:
    """Turns numbers of training into records; `seeds` is in the order of the arrays."""

    def __init__(self, task: Training, recorder: Recorder, events: Events) -> None:
        """Writes through `recorder` and `events`."""
        self.task, self.config, self.seeds = task, task.config, task.seeds
        self.recorder, self.events = recorder, events

    def begin(self) -> None:
        """Says what each seed's run is, new or resumed."""
        knobs = schema.flat(self.config)
        chosen = {key: knobs[key] for key in HPARAMS}
        for seed in self.seeds:
            self.events.hparams(seed, {"seed": seed, **chosen}, METRICS)

    def step(self, done: int, values: dict[str, np.ndarray], step_s: float, rate: float) -> None:
        """Writes the numbers of one step, f[S] each, and shows how far the run is."""
        speed = self.config.data.global_batch * len(self.seeds) / max(step_s, 1e-9)
        for at, seed in enumerate(self.seeds):
            tags = {
                "loss/train": float(values["loss"][at]),
                "accuracy/train": float(values["accuracy"][at]),
                "gradient_norm/weights": float(values["grad_norm"][at]),
                "learning_rate/weights": rate,
                "speed/examples_per_s": speed,
                "speed/step_ms": 1000 * step_s,
            }
            self.events.write(done, seed, tags)
        losses = " ".join(f"{loss:.3f}" for loss in values["loss"])
        self.recorder.progress(
            done, f"loss {losses}  {1000 * step_s:.0f} ms  {speed:.0f} pictures/s"
        )

    def epoch(self, epoch: int, done: int, seen: dict[str, Any]) -> None:
        """Writes a line and numbers of each seed after an epoch that was scored.

        seen: alive bool[S], and the sums `totals`, `valid`, f[S] each.
        """
        if "valid" not in seen:
            return
        lines = []
        for at, seed in enumerate(self.seeds):
            train, valid = (averages(seen[name], at) for name in ("totals", "valid"))
            found = scores(seen["valid"], at)
            line = {"train_loss": train[0], "train_accuracy": train[1], **found}
            start = {"epoch": epoch, "step": done, "seed": seed, "alive": bool(seen["alive"][at])}
            lines.append({**start, **line})
            tags = {
                "progress/epoch": epoch,
                "loss/train_epoch": train[0],
                "loss/valid": valid[0],
                "accuracy/train_epoch": train[1],
                "accuracy/valid": valid[1],
                "accuracy/valid_top5": 100 - found["valid_error_top5"],
            }
            self.events.write(done, seed, tags)
            self.recorder.message(
                f"epoch {epoch} seed {seed}: train loss {train[0]:.4f} accuracy {train[1]:.2f} %, "
                f"valid loss {valid[0]:.4f} error {found['valid_error']:.2f} % "
                f"(top 5: {found['valid_error_top5']:.2f} %)"
            )
        self.recorder.epoch(lines)

    def standings(self, total: int, alive: np.ndarray) -> dict[str, Any]:
        """Returns seeds, best_seed and metrics of result.json after `total` steps."""
        found = standings(self.recorder.lines, self.seeds, total, alive, KEYS)
        value = genotype.to_dict(self.task.genotype)
        found["seeds"] = [{**one, "genotype": value} for one in found["seeds"]]
        found["metrics"]["parameters"] = self.task.parameters
        found["metrics"]["multiply_adds"] = self.task.multiply_adds
        found["metrics"]["scored_on"] = (
            "held_out" if self.task.scored is self.task.pictures else "test"
        )
        return found

    def leave(self, folder: epath.Path, result: dict[str, Any]) -> None:
        """Writes the genotype that was trained."""
        del result
        text = genotype.to_json(self.task.genotype)
        metrics.write_whole(folder / "genotype.json", text + "\n")


def scores(sums: dict[str, np.ndarray], at: int) -> dict[str, float]:
    """Returns loss, accuracy and errors (per cent) of a seed's sums."""
    loss, accuracy = averages(sums, at)
    among = 100 * float(sums["among"][at]) / max(float(sums["count"][at]), 1.0)
    return {
        "valid_loss": loss,
        "valid_accuracy": accuracy,
        "valid_error": 100 - accuracy,
        "valid_error_top5": 100 - among,
    }
