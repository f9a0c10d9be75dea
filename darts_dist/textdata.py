"""A config's texts, cut: into windows that steps are of, and into columns that are scored.

Place: layer 3, under `texttask`. Letters: R rows, B columns.
"""

import os
from typing import Any

import numpy as np

from darts_dist.data import text, windows
from darts_dist.data.text import Corpus
from darts_dist.trainconfig import TextTrainConfig

COLUMNS = {"valid": "batch", "test": "test_batch"}  # text that is scored -> knob of evaluation
MEAN_SHARE = 0.975  # of a whole window that a window is long on average (`windows.draw_length`)


def cut(config: Any, corpus: Corpus, *, seeds: Any, own: Any, columns: slice) -> windows.Batches:
    """Returns the windows of a search's steps, of a weight and an alpha text; or of a training's,
    whose lengths vary.  seeds, own, columns: as of `windows.Batches`.

    Raises ConfigError for a text that is too short.
    """
    data, trains = config.data, isinstance(config, TextTrainConfig)
    texts = {
        name: text.columns(getattr(corpus, name), data.global_batch, name=_file(config, name))
        for name in (("train",) if trains else windows.STREAMS)
    }
    rule: dict[str, Any] = {"length": data.window, "jitter": trains}
    if trains:
        useful = [size for size in data.sizes if size < data.window + data.excess]
        rule |= {"excess": data.excess, "sizes": useful}
    return windows.Batches(texts, seeds=seeds, own=own, columns=columns, **rule)


def steps_of_epoch(config: Any, rows: int) -> int:
    """Returns how many steps an epoch has, on a text of so many rows."""
    about = round((rows - 1) / (MEAN_SHARE * config.data.window))
    return config.schedule.steps_per_epoch or max(about, 1)


def scored_columns(config: Any, corpus: Corpus, name: str) -> np.ndarray:
    """Returns what is scored of a corpus's text, "valid" or "test", in columns, int32[R, B].

    Raises ConfigError for a text that is too short.
    """
    limit, knob = config.evaluation.rows, COLUMNS[name]
    rows = text.columns(
        getattr(corpus, name),
        getattr(config.evaluation, knob),
        name=_file(config, name),
        key=f"evaluation.{knob}",
    )
    return rows[: limit + 1] if limit else rows


def _file(config: Any, name: str) -> str:
    return os.path.join(config.data.path, f"{name}.txt")


def wide(count: int, devices: int) -> int:
    """Returns how many columns so many are filled up to, for all devices to have as many."""
    return -(-count // devices) * devices
