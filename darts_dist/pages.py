"""What the pages of a search in TensorBoard are made of: numbers, pictures, words, knobs.

Place: layer 4, beside `journal`, which says when; `events` has the tags and writes. Pure. Letters:
E edges, K operations.
"""

from collections.abc import Mapping

import numpy as np

from darts_dist import picture, schema
from darts_dist.config import Config, TextConfig
from darts_dist.genotype import CnnGenotype, Genotype
from darts_dist.methods import PRESETS
from darts_dist.picture import heatmap
from darts_dist.picture.graph import HEADINGS
from darts_dist.spaces import derive

METRICS = {
    "cnn": ("accuracy/valid", "loss/valid", "cells/skip_connections_normal", "progress/epoch"),
    "rnn": ("perplexity/valid", "loss/valid", "progress/epoch"),
}
"""Numbers of the HPARAMS tab: the last that there are."""

PICTURE_HPARAMS = (
    "network.channels",
    "network.layers",
    "network.nodes",
    "data.kind",
    "data.global_batch",
    "data.train_limit",
    "data.flip",
    "batch_norm.sync",
    "precision.compute",
    "method.preset",
    "method.warmup_epochs",
    "weights.learning_rate",
    "weights.weight_decay",
    "alphas.learning_rate",
    "alphas.weight_decay",
)
TEXT_HPARAMS = (
    "network.channels",
    "network.nodes",
    "data.kind",
    "data.global_batch",
    "data.window",
    "batch_norm.sync",
    "precision.compute",
    "method.preset",
    "method.warmup_epochs",
    "weights.learning_rate",
    "weights.weight_decay",
    "alphas.learning_rate",
    "alphas.weight_decay",
)
HPARAMS = {"cnn": PICTURE_HPARAMS, "rnn": TEXT_HPARAMS}
"""Knobs of the HPARAMS tab, the same in all runs, so that runs may be compared.

None of those that a resumed run may change: a viewer would keep the first value.
"""


def hparams(config: Config | TextConfig, seed: int) -> dict[str, float | bool | str]:
    """Returns what tells a seed's run from others, by knob."""
    knobs, preset = schema.flat(config), PRESETS[config.method.preset]
    hypergradient = config.method.hypergradient or preset.hypergradient
    chosen = {key: knobs[key] for key in HPARAMS[config.space.kind]}
    return {"seed": seed, **chosen, "method.hypergradient": hypergradient}


def entropy(weights: np.ndarray) -> float:
    """Returns the mean over edges of the entropy of f[E, K] over log K; 0 where K is 1."""
    logs = np.log(np.where(weights > 0, weights, 1.0))
    most = np.log(weights.shape[-1])
    return float(-(weights * logs).sum(-1).mean() / most) if most else 0.0


def skips(entries: derive.Entries) -> int:
    """Returns how many skip connections a derived cell keeps."""
    return sum(operation == "skip_connect" for operation, _ in entries)


def pictures(
    weights: Mapping[str, np.ndarray], cells: Genotype, config: Config | TextConfig
) -> dict[str, bytes]:
    """Returns png files by tag: the map of each cell's mixture weights f[E, K], and the cell."""
    found, space = {}, config.space.kind
    for cell, values in weights.items():
        entries, edges = getattr(cells, cell), derive.edges_of(len(values), space)
        inputs, kept = derive.INPUTS[space], derive.KEPT[space]
        keeps = {
            (state, inputs + at // kept): operation for at, (operation, state) in enumerate(entries)
        }
        found[f"alphas/weights_{cell}"] = heatmap.png(
            values.tolist(), edges, config.space.operations, keeps, HEADINGS[cell]
        )
        found[f"cells/{cell}"] = picture.thumbnail(cells, cell)
    return found


def collapse(cells: CnnGenotype, epoch: int) -> dict[str, str]:
    """Returns a warning by tag, in Markdown, where a normal cell collapses to skip connections.

    From half of its operations on, and from 2 on: the cells that DARTS published keep 3 and 2 of 8,
    and are good. arXiv 1909.06035 (DARTS+) stops a search at 2.
    """
    kept, found = len(cells.normal), skips(cells.normal)
    if found < max(2, kept / 2):
        return {}
    return {
        "warnings/skip_connections": f"{found} of the {kept} operations of the normal cell are "
        f"skip connections after epoch {epoch}; long searches collapse like this, and such cells "
        "do badly (arXiv 1909.06035). Take the cell of another epoch "
        "(`tools/derive_genotype.py RUN --epoch N`), or search with fewer `schedule.epochs`, "
        "a larger `weights.weight_decay` (arXiv 1909.09656) or more `method.warmup_epochs`"
    }
