"""What a search tells while it runs and when it ends: its pages, lines of genotypes, the standings.

It works on numbers that were fetched already; `run` fetches them, `metrics` and `events` write
them, `pages` holds what the pages are made of. Letters: S seeds, E edges, K operations.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from darts_dist import genotype, metrics, pages, picture
from darts_dist.bilevel import Search
from darts_dist.events import Events
from darts_dist.metrics import Recorder
from darts_dist.spaces import derive


class SearchJournal:
    """Turns a search's numbers into records; `seeds` is in the order of the arrays."""

    def __init__(self, task: Search, recorder: Recorder, events: Events) -> None:
        """Writes through `recorder` and `events`."""
        self.config, self.seeds = task.config, task.seeds
        self.recorder, self.events = recorder, events
        self._warned: set[tuple[int, str]] = set()

    def begin(self) -> None:
        """Says what each seed's run is, new or resumed."""
        for seed in self.seeds:
            self.events.hparams(seed, pages.hparams(self.config, seed), pages.METRICS)

    def step(self, done: int, values: dict[str, np.ndarray], step_s: float, rate: float) -> None:
        """Writes the numbers of one step, f[S] each, and shows how far the run is."""
        speed = self.config.data.global_batch * len(self.seeds) / max(step_s, 1e-9)
        for at, seed in enumerate(self.seeds):
            own = {name: float(value[at]) for name, value in values.items() if name != "alive"}
            tags = {
                "loss/train": own["loss"],
                "accuracy/train": own["accuracy"],
                "gradient_norm/weights": own["grad_norm"],
                "learning_rate/weights": rate,
                "speed/examples_per_s": speed,
                "speed/step_ms": 1000 * step_s,
            }
            if "valid_loss" in own:
                tags["loss/alpha_batch"] = own["valid_loss"]
                tags["accuracy/alpha_batch"] = own["valid_accuracy"]
                tags["gradient_norm/alphas"] = own["alpha_grad_norm"]
            self.events.write(done, seed, tags)
        losses = " ".join(f"{loss:.3f}" for loss in values["loss"])
        self.recorder.progress(
            done, f"loss {losses}  {1000 * step_s:.0f} ms  {speed:.0f} pictures/s"
        )

    def epoch(self, epoch: int, done: int, seen: dict[str, Any]) -> None:
        """Keeps the alphas of an epoch and, where it was evaluated, writes of each seed and warns.

        seen: alphas by cell f[S, E, K], alive bool[S], and the sums `totals`, `valid`, f[S] each.
        """
        self.recorder.alphas(epoch, seen["alphas"])
        if "valid" not in seen:
            return
        lines, drawn = [], self._draws(epoch)
        for at, seed in enumerate(self.seeds):
            train, valid = (averages(seen[name], at) for name in ("totals", "valid"))
            alphas = {name: a[at] for name, a in seen["alphas"].items()}
            cells = derive.from_alphas(alphas, self.config.space.operations)
            assert isinstance(cells, genotype.CnnGenotype)
            alive, skips = bool(seen["alive"][at]), pages.skips(cells.normal)
            lines.append(
                {
                    "epoch": epoch,
                    "step": done,
                    "seed": seed,
                    "alive": alive,
                    "genotype": genotype.to_dict(cells),
                    "train_loss": train[0],
                    "train_accuracy": train[1],
                    "valid_loss": valid[0],
                    "valid_accuracy": valid[1],
                    "skip_connections": skips,
                }
            )
            self.recorder.message(
                f"epoch {epoch} seed {seed}: train loss {train[0]:.4f} accuracy {train[1]:.2f} %, "
                f"valid loss {valid[0]:.4f} accuracy {valid[1]:.2f} %, {skips} skip connections"
            )
            weights = {name: derive.softmax(a) for name, a in alphas.items()}
            numbers = {
                "progress/epoch": epoch,
                "loss/train_epoch": train[0],
                "loss/valid": valid[0],
                "accuracy/train_epoch": train[1],
                "accuracy/valid": valid[1],
                "cells/skip_connections_normal": skips,
                "cells/skip_connections_reduce": pages.skips(cells.reduce),
                **{f"alphas/entropy_{name}": pages.entropy(w) for name, w in weights.items()},
            }
            pictures = pages.pictures(weights, cells, self.config) if drawn and alive else {}
            texts = self._warn(epoch, seed, cells)
            self.events.write(done, seed, numbers, pictures=pictures, texts=texts)
        self.recorder.epoch(lines)

    def _draws(self, epoch: int) -> bool:
        """Are there pictures after this epoch? Yes after every so many evaluations and the last."""
        every = self.config.log.pictures_every
        if not every or not self.events.on:
            return False
        evaluations = -(-(epoch + 1) // self.config.evaluation.every_epochs)
        return evaluations % every == 0 or epoch + 1 == self.config.schedule.epochs

    def _warn(self, epoch: int, seed: int, cells: genotype.CnnGenotype) -> dict[str, str]:
        """Returns new warnings by tag and says them in the log; alphas in warm-up mean nothing."""
        if epoch < self.config.method.warmup_epochs:
            return {}
        found = pages.collapse(cells, epoch)
        new = {tag: text for tag, text in found.items() if (seed, tag) not in self._warned}
        for tag, text in new.items():
            self._warned.add((seed, tag))
            self.recorder.message(f"warning: seed {seed}: {text.replace('`', '')}")
        return new

    def standings(self, total: int, alive: np.ndarray) -> dict[str, Any]:
        """Returns seeds, best_seed and metrics of result.json after `total` steps."""
        keys = ("genotype", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
        return standings(self.recorder.lines, self.seeds, total, alive, keys)

    def leave(self, folder: epath.Path, result: dict[str, Any]) -> None:
        """Writes the best seed's genotype, and draws every seed's final cells."""
        for one in result["seeds"]:
            number, value = one["seed"], genotype.from_dict(one["genotype"], "cnn")
            if number == result["best_seed"]:
                text = genotype.to_json(value)
                metrics.write_whole(folder / "genotype.json", text + "\n")
            for cell, svg in picture.each_cell(value, f"seed {number}").items():
                metrics.write_whole(folder / "cells" / f"seed-{number}-{cell}.svg", svg)


def standings(
    lines: Sequence[Mapping[str, Any]],
    numbers: Sequence[int],
    total: int,
    alive: np.ndarray,
    keys: Sequence[str],
) -> dict[str, Any]:
    """Returns seeds, best_seed and metrics of result.json: `keys` of each seed's line after `total`
    steps, the seed with the lowest validation loss, means and deviations over the seeds.
    """
    last = {line["seed"]: line for line in lines if line["step"] == total}
    seeds = [
        {
            "seed": seed,
            "status": "completed" if alive[at] else "diverged",
            **{key: last[seed][key] for key in keys if seed in last},
        }
        for at, seed in enumerate(numbers)
    ]
    done = [one for one in seeds if one["status"] == "completed" and "valid_loss" in one]
    best = min(done, key=lambda one: one["valid_loss"], default={})
    metrics = {"valid_loss": best.get("valid_loss"), "valid_accuracy": best.get("valid_accuracy")}
    for key in [key for key in keys if key.startswith("valid_")]:
        found = [one[key] for one in done]
        metrics[f"{key}_mean"] = statistics.fmean(found) if found else None
        metrics[f"{key}_deviation"] = statistics.stdev(found) if len(found) > 1 else 0.0
    return {"seeds": seeds, "best_seed": best.get("seed"), "metrics": metrics}


def averages(sums: dict[str, np.ndarray], at: int) -> tuple[float, float]:
    """Mean loss and accuracy in per cent of a seed's sums."""
    count = max(float(sums["count"][at]), 1.0)
    return float(sums["loss"][at]) / count, 100 * float(sums["right"][at]) / count
