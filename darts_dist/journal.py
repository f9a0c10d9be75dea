"""What a search tells while it runs and when it ends: scalars, lines of genotypes, the standings.

It works on numbers that were fetched already; `search` fetches them, `metrics` writes them.
Letters: S seeds, E edges, K operations.
"""

import statistics
from typing import Any

import numpy as np

from darts_dist import genotype
from darts_dist.config import Config
from darts_dist.metrics import Recorder
from darts_dist.spaces import derive


class Journal:
    """Turns a search's numbers into records; `seeds` is in the order of the arrays."""

    def __init__(self, config: Config, recorder: Recorder, seeds: list[int]) -> None:
        """Writes through `recorder`."""
        self.config, self.recorder, self.seeds = config, recorder, seeds

    def step(self, done: int, values: dict[str, np.ndarray], step_s: float, rate: float) -> None:
        """Writes the scalars of one step, f[S] each, and shows how far the run is."""
        speed = self.config.data.global_batch * len(self.seeds) / max(step_s, 1e-9)
        for at, seed in enumerate(self.seeds):
            own = {name: float(value[at]) for name, value in values.items() if name != "alive"}
            tags = {
                "train/loss": own["loss"],
                "train/accuracy": own["accuracy"],
                "train/gradient_norm": own["grad_norm"],
                "train/learning_rate": rate,
                "speed/examples_per_s": speed,
                "speed/step_ms": 1000 * step_s,
            }
            if "valid_loss" in own:
                tags["alphas/batch_loss"] = own["valid_loss"]
                tags["alphas/batch_accuracy"] = own["valid_accuracy"]
                tags["alphas/gradient_norm"] = own["alpha_grad_norm"]
            self.recorder.scalars(done, seed, tags)
        losses = " ".join(f"{loss:.3f}" for loss in values["loss"])
        self.recorder.progress(
            done, f"loss {losses}  {1000 * step_s:.0f} ms  {speed:.0f} pictures/s"
        )

    def epoch(self, epoch: int, done: int, seen: dict[str, Any]) -> None:
        """Writes a line and scalars for each seed after an epoch.

        seen: alphas by cell f[S, E, K], alive bool[S], and the sums `totals`, `valid`, f[S] each.
        """
        lines = []
        for at, seed in enumerate(self.seeds):
            train, valid = (averages(seen[name], at) for name in ("totals", "valid"))
            alphas = {name: a[at] for name, a in seen["alphas"].items()}
            cells = derive.from_alphas(alphas, self.config.space.operations)
            assert isinstance(cells, genotype.CnnGenotype)
            skips = sum(name == "skip_connect" for name, _ in cells.normal)
            lines.append(
                {
                    "epoch": epoch,
                    "step": done,
                    "seed": seed,
                    "alive": bool(seen["alive"][at]),
                    "genotype": genotype.to_dict(cells),
                    "train_loss": train[0],
                    "train_accuracy": train[1],
                    "valid_loss": valid[0],
                    "valid_accuracy": valid[1],
                    "skip_connections": skips,
                }
            )
            tags = {"valid/loss": valid[0], "valid/accuracy": valid[1]}
            tags |= {"epoch/train_loss": train[0], "epoch/train_accuracy": train[1]}
            self.recorder.scalars(done, seed, {**tags, "alphas/skip_connections": skips})
            self.recorder.message(
                f"epoch {epoch} seed {seed}: train loss {train[0]:.4f} accuracy {train[1]:.2f} %, "
                f"valid loss {valid[0]:.4f} accuracy {valid[1]:.2f} %, {skips} skip connections"
            )
        self.recorder.epoch(lines)

    def standings(self, total: int, alive: np.ndarray) -> dict[str, Any]:
        """Returns seeds, best_seed and metrics of result.json after `total` steps."""
        last = {line["seed"]: line for line in self.recorder.lines if line["step"] == total}
        keys = ("genotype", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
        seeds = [
            {
                "seed": seed,
                "status": "completed" if alive[at] else "diverged",
                **{key: last[seed][key] for key in keys if seed in last},
            }
            for at, seed in enumerate(self.seeds)
        ]
        done = [one for one in seeds if one["status"] == "completed"]
        best = min(done, key=lambda one: one["valid_loss"]) if last else {}
        losses = [one["valid_loss"] for one in done if "valid_loss" in one]
        return {
            "seeds": seeds,
            "best_seed": best.get("seed"),
            "metrics": {
                "valid_loss": best.get("valid_loss"),
                "valid_accuracy": best.get("valid_accuracy"),
                "valid_loss_mean": statistics.fmean(losses) if losses else None,
                "valid_loss_deviation": statistics.stdev(losses) if len(losses) > 1 else 0.0,
            },
        }


def averages(sums: dict[str, np.ndarray], at: int) -> tuple[float, float]:
    """Mean loss and accuracy in per cent of a seed's sums."""
    count = max(float(sums["count"][at]), 1.0)
    return float(sums["loss"][at]) / count, 100 * float(sums["right"][at]) / count
