"""The verb `select`: the cells of a search, trained briefly, scored on what trained no weights,
ranked (arXiv 1806.09055, section 3.1).

Place: layer 4: a search run -> a run of `train` for each cell -> selection.json, genotype.json.
"""

import json
from typing import Any

from etils import epath

from darts_dist import cluster, genotype, metrics, opening, train
from darts_dist import config as configs
from darts_dist.errors import DivergedError, InputError
from darts_dist.genotype import CnnGenotype, Genotype
from darts_dist.spaces import derive, rnn
from darts_dist.trainconfig import SelectConfig, TextSelectConfig, one_training
from darts_dist.trainjournal import KEYS


def run(config: SelectConfig | TextSelectConfig, workdir: str, debug: bool) -> dict[str, Any]:
    """Returns what selection.json holds: a row for each cell, the best first, and the best seed.

    Each cell's training is a run of its own in `workdir`/select, resumed where it was interrupted
    and left alone where it is finished.  Raises InputError for a search that is not finished.
    """
    folder = epath.Path(workdir)
    if not (folder / "result.json").exists():
        raise InputError(f"{workdir} has no result.json: finish its search first")
    cells = candidates(config, folder)
    rows = []
    for name, value in cells.items():
        own = one_training(config, name, genotype.to_json(value))
        rows.append(train_one(own, value, folder / "select" / name, debug))
    rows.sort(key=lambda row: (row["valid_loss_mean"] is None, row["valid_loss_mean"]))
    found = [row for row in rows if row["seed"] is not None and row["status"] == "completed"]
    if not found:
        raise DivergedError(
            f"no cell of {workdir} could be trained; see {folder / 'select'}, and lower "
            "weights.learning_rate"
        )
    best = found[0]
    result = {
        "verb": "select",
        "status": "completed",
        "config_hash": configs.config_hash(config),
        "best_seed": best["seed"],
        "cells": rows,
    }
    if cluster.is_main():
        text = genotype.to_json(genotype.from_dict(best["genotype"], config.space.kind))
        metrics.write_whole(folder / "genotype.json", text + "\n")
        metrics.write_whole(folder / "selection.json", json.dumps(result, indent=1) + "\n")
    return result


def candidates(config: SelectConfig | TextSelectConfig, folder: epath.Path) -> dict[str, Genotype]:
    """Returns the cells to compare by the names of their runs: those found, and random ones."""
    search = opening.read_result(folder / "result.json")
    cells: dict[str, Genotype] = {}
    for one in search["seeds"]:
        if one["status"] == "completed":
            cells[f"seed-{one['seed']}"] = genotype.from_dict(one["genotype"], config.space.kind)
    if not cells:
        raise InputError(f"{folder}: every seed of the search diverged; there is no cell to train")
    operations = configs.load(str(folder / "config.toml")).space.operations
    found = next(iter(cells.values()))
    for number in range(config.selection.random_cells):
        if isinstance(found, CnnGenotype):
            drawn = derive.random_cells(operations, len(found.normal) // 2, number)
        else:
            drawn = rnn.random_cell(operations, len(found.recurrent), number)
        cells[f"random-{number}"] = drawn
    return cells


def train_one(config, value: Genotype, folder: epath.Path, debug: bool) -> dict[str, Any]:
    """Returns the row of one cell after its training in `folder`."""
    name = config.name
    seed = int(name.removeprefix("seed-")) if name.startswith("seed-") else None
    row: dict[str, Any] = {"cell": name, "seed": seed, "genotype": genotype.to_dict(value)}
    keys = [key for key in KEYS[config.space.kind] if key.startswith("valid_")]
    try:
        found = train.run(config, str(folder), debug)["metrics"]
        row["status"] = "completed"
    except DivergedError:
        found, row["status"] = {}, "diverged"
    for key in keys:
        row[f"{key}_mean"] = found.get(f"{key}_mean")
        row[f"{key}_deviation"] = found.get(f"{key}_deviation")
    for key in ("parameters", "multiply_adds"):
        row[key] = found.get(key)
    return row
