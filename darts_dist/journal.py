"""What a search tells while it runs and when it ends: its pages, lines of genotypes, the standings.

It works on numbers that were fetched already; `run` fetches them, `metrics` and `events` write
them, `pages` holds what the pages are made of. Letters: S seeds, E edges, K operations.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from darts_dist import genotype, metrics, pages, picture
from darts_dist.bilevel import Search
from darts_dist.events import Events
from darts_dist.metrics import Recorder
from darts_dist.spaces import derive
from darts_dist.tellings import TELLINGS, over_seeds, scored
from darts_dist.texttask import TextSearch


class SearchJournal:
    """Turns a search's numbers into records; `seeds` is in the order of the arrays."""

    def __init__(self, task: Search | TextSearch, recorder: Recorder, events: Events) -> None:
        """Writes through `recorder` and `events`."""
        self.config, self.seeds, self.task = task.config, task.seeds, task
        self.telling = TELLINGS[task.config.space.kind]
        self.recorder, self.events = recorder, events
        self._warned: set[tuple[int, str]] = set()

    def begin(self) -> None:
        """Says what each seed's run is, new or resumed."""
        for seed in self.seeds:
            metrics = pages.METRICS[self.config.space.kind]
            self.events.hparams(seed, pages.hparams(self.config, seed), metrics)

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
            if "alpha_grad_norm" in values:
                tags["gradient_norm/alphas"] = float(values["alpha_grad_norm"][at])
            self.events.write(done, seed, tags)
        losses = " ".join(f"{loss:.3f}" for loss in values["loss"])
        self.recorder.progress(
            done, f"loss {losses}  {1000 * step_s:.0f} ms  {speed:.0f} {self.task.unit}/s"
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
            alphas = {name: a[at] for name, a in seen["alphas"].items()}
            space = self.config.space
            cells = derive.from_alphas(alphas, space.operations, space.kind)
            alive = bool(seen["alive"][at])
            line = {
                "epoch": epoch,
                "step": done,
                "seed": seed,
                "alive": alive,
                "genotype": genotype.to_dict(cells),
                **self.telling.line("train", seen["totals"], at),
                **self.telling.line("valid", seen["valid"], at),
            }
            text = f"epoch {epoch} seed {seed}: {self.telling.text(line)}"
            weights = {name: derive.softmax(a) for name, a in alphas.items()}
            numbers = {
                "progress/epoch": epoch,
                **self.telling.epoch(line),
                **{f"alphas/entropy_{name}": pages.entropy(w) for name, w in weights.items()},
            }
            texts = {}
            if isinstance(cells, genotype.CnnGenotype):
                line["skip_connections"] = skips = pages.skips(cells.normal)
                text += f", {skips} skip connections"
                numbers["cells/skip_connections_normal"] = skips
                numbers["cells/skip_connections_reduce"] = pages.skips(cells.reduce)
            lines.append(line)
            self.recorder.message(text)
            if isinstance(cells, genotype.CnnGenotype):
                texts = self._warn(epoch, seed, cells)
            pictures = pages.pictures(weights, cells, self.config) if drawn and alive else {}
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

    def standings(
        self, total: int, alive: np.ndarray, last: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """Returns seeds, best_seed and metrics of result.json after `total` steps."""
        del last
        score = self.telling.score
        keys = ("genotype", "train_loss", f"train_{score}", "valid_loss", f"valid_{score}")
        return standings(self.recorder.lines, self.seeds, total, alive, keys)

    def leave(self, folder: epath.Path, result: dict[str, Any]) -> None:
        """Writes the best seed's genotype, and draws every seed's final cells."""
        for one in result["seeds"]:
            number, value = one["seed"], genotype.from_dict(one["genotype"])
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

    A seed whose validation loss is not finite is never the best and counts in no mean.
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
    done = scored([one for one in seeds if one["status"] == "completed"])
    best = min(done, key=lambda one: one["valid_loss"], default={})
    scores = [key for key in keys if key.startswith(("valid_", "test_"))]
    metrics = {key: best.get(key) for key in scores} | over_seeds(done, scores)
    return {"seeds": seeds, "best_seed": best.get("seed"), "metrics": metrics}
