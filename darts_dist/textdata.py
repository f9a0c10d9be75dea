"""A config's texts, cut: into windows that steps are of, and into columns that are scored.

Place: layer 3, under `texttask`. Letters: R rows, B columns.
"""

from typing import Any

import numpy as np

from darts_dist.data import text, windows
from darts_dist.data.text import Corpus
from darts_dist.trainconfig import TextTrainConfig

MEAN_SHARE = 0.975  # of a whole window that a window is long on average (`windows.draw_length`)


def cut(config: Any, corpus: Corpus, *, seeds: Any, own: Any, columns: slice) -> windows.Batches:
    """Returns the windows of a search's steps, of a weight and an alpha text; or of a training's,
    whose lengths vary.  seeds, own, columns: as of `windows.Batches`.

    Raises ConfigError for a text that is too short.
    """
    data, trains = config.data, isinstance(config, TextTrainConfig)
    texts = {
        name: text.columns(getattr(corpus, name), data.global_batch)
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


def scored_columns(config: Any, tokens: np.ndarray, count: int) -> np.ndarray:
    """Returns what is scored of a text, in so many columns, int32[R, B]."""
    limit, rows = config.evaluation.rows, text.columns(tokens, count)
    return rows[: limit + 1] if limit else rows


def wide(count: int, devices: int) -> int:
    """Returns how many columns so many are filled up to, for all devices to have as many."""
    return -(-count // devices) * devices
