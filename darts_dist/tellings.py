"""Scores in words: how a loss and what goes with it are called, for pictures and for texts.

Place: layer 4, beside the journals, which say when. Pure. Letters: S seeds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from darts_dist.data.windows import perplexity


class PictureTelling:
    """A loss goes with the per cent of pictures that are right."""

    score, best = "accuracy", "accuracy/valid"

    def step(self, values: dict[str, np.ndarray], at: int) -> dict[str, float]:
        """Returns a step's numbers of the seed at a place, by tag."""
        tags = {
            "loss/train": float(values["loss"][at]),
            "accuracy/train": float(values["accuracy"][at]),
        }
        if "valid_loss" in values:
            tags["loss/alpha_batch"] = float(values["valid_loss"][at])
            tags["accuracy/alpha_batch"] = float(values["valid_accuracy"][at])
        return tags

    def line(self, part: str, sums: dict[str, np.ndarray], at: int) -> dict[str, float]:
        """Returns the scores of a seed's sums, by name; part: "train" or "valid"."""
        loss, accuracy = averages(sums, at)
        found = {f"{part}_loss": loss, f"{part}_accuracy": accuracy}
        if "among" in sums:
            among = 100 * float(sums["among"][at]) / max(float(sums["count"][at]), 1.0)
            found |= {f"{part}_error": 100 - accuracy, f"{part}_error_top5": 100 - among}
        return found

    def epoch(self, line: dict[str, Any]) -> dict[str, float]:
        """Returns an epoch's scores by tag."""
        tags = {
            "loss/train_epoch": line["train_loss"],
            "loss/valid": line["valid_loss"],
            "accuracy/train_epoch": line["train_accuracy"],
            "accuracy/valid": line["valid_accuracy"],
        }
        if "valid_error_top5" in line:
            tags["accuracy/valid_top5"] = 100 - line["valid_error_top5"]
        return tags

    def last(self, last: dict[str, np.ndarray], at: int) -> dict[str, float]:
        """Returns the scores of a seed at the end of a run, by name: none but an epoch's."""
        del last, at
        return {}

    def text(self, line: dict[str, Any]) -> str:
        """Returns an epoch's scores as words."""
        valid = f"accuracy {line['valid_accuracy']:.2f} %"
        if "valid_error" in line:
            valid = f"error {line['valid_error']:.2f} % (top 5: {line['valid_error_top5']:.2f} %)"
        return (
            f"train loss {line['train_loss']:.4f} accuracy {line['train_accuracy']:.2f} %, "
            f"valid loss {line['valid_loss']:.4f} {valid}"
        )


class TextTelling:
    """A loss is a word's; it goes with the perplexity that it makes."""

    score, best = "perplexity", "perplexity/valid"

    def step(self, values: dict[str, np.ndarray], at: int) -> dict[str, float]:
        """Returns a step's numbers of the seed at a place, by tag."""
        parts = {"train": "loss", "alpha_batch": "valid_loss"}
        tags = {}
        for part, name in parts.items():
            if name in values:
                loss = float(values[name][at])
                tags |= {f"loss/{part}": loss, f"perplexity/{part}": perplexity(loss)}
        return tags

    def line(self, part: str, sums: dict[str, np.ndarray], at: int) -> dict[str, float]:
        """Returns the scores of a seed's sums, by name; part: "train" or "valid"."""
        loss = float(sums["loss"][at]) / max(float(sums["count"][at]), 1.0)
        return {f"{part}_loss": loss, f"{part}_perplexity": perplexity(loss)}

    def epoch(self, line: dict[str, Any]) -> dict[str, float]:
        """Returns an epoch's scores by tag."""
        return {
            "loss/train_epoch": line["train_loss"],
            "loss/valid": line["valid_loss"],
            "perplexity/train_epoch": line["train_perplexity"],
            "perplexity/valid": line["valid_perplexity"],
        }

    def last(self, last: dict[str, np.ndarray], at: int) -> dict[str, float]:
        """Returns the scores of a seed at the end of a run, by name; last: losses f[S] by name."""
        found = {}
        for name, losses in last.items():
            part, loss = name.removesuffix("_loss"), float(losses[at])
            found |= {name: loss, f"{part}_perplexity": perplexity(loss)}
        return found

    def text(self, line: dict[str, Any]) -> str:
        """Returns an epoch's scores as words."""
        train, valid = (
            f"{part} loss {line[f'{part}_loss']:.4f} perplexity {line[f'{part}_perplexity']:.2f}"
            for part in ("train", "valid")
        )
        return f"{train}, {valid}"


TELLINGS = {"cnn": PictureTelling(), "rnn": TextTelling()}


def averages(sums: dict[str, np.ndarray], at: int) -> tuple[float, float]:
    """Mean loss and accuracy in per cent of a seed's sums."""
    count = max(float(sums["count"][at]), 1.0)
    return float(sums["loss"][at]) / count, 100 * float(sums["right"][at]) / count


def scored(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the rows of seeds that can be compared: those whose validation loss is finite."""
    return [row for row in rows if _is_finite(row.get("valid_loss"))]


def over_seeds(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    """Returns the mean and the deviation of each score, by name, over the seeds' rows.

    A number that is not finite (a perplexity may be infinite where its loss is not) does not count;
    without any that is the mean is None and the deviation 0.
    """
    found: dict[str, Any] = {}
    for key in keys:
        values = [row[key] for row in rows if _is_finite(row.get(key))]
        try:
            mean = statistics.fmean(values) if values else None
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        except OverflowError:  # the sum of numbers that are finite need not be
            mean, deviation = None, 0.0
        found |= {f"{key}_mean": mean, f"{key}_deviation": deviation}
    return found


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
