"""The verb `select`: the cells of a search, trained briefly, scored on pictures that trained no
weights, ranked (arXiv 1806.09055, section 3.1).

Place: layer 4: a search run -> a run of `train` for each cell -> selection.json, genotype.json.
"""

import json
from typing import Any

from etils import epath

from darts_dist import cluster, genotype, metrics, opening, train
from darts_dist import config as configs
from darts_dist.errors import DivergedError, InputError
from darts_dist.genotype import CnnGenotype
from darts_dist.spaces import derive
from darts_dist.trainconfig import SelectConfig, one_training


def run(config: SelectConfig, workdir: str, debug: bool) -> dict[str, Any]:
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
        text = genotype.to_json(genotype.from_dict(best["genotype"], "cnn"))
        metrics.write_whole(folder / "genotype.json", text + "\n")
        metrics.write_whole(folder / "selection.json", json.dumps(result, indent=1) + "\n")
    return result


def candidates(config: SelectConfig, folder: epath.Path) -> dict[str, CnnGenotype]:
    """Returns the cells to compare by the names of their runs: those found, and random ones."""
    search = opening.read_result(folder / "result.json")
    cells: dict[str, CnnGenotype] = {}
    for one in search["seeds"]:
        if one["status"] == "completed":
            value = genotype.from_dict(one["genotype"], "cnn")
            assert isinstance(value, CnnGenotype)
            cells[f"seed-{one['seed']}"] = value
    if not cells:
        raise InputError(f"{folder}: every seed of the search diverged; there is no cell to train")
    nodes = len(next(iter(cells.values())).normal) // 2
    space = configs.load(str(folder / "config.toml")).space
    for number in range(config.selection.random_cells):
        cells[f"random-{number}"] = derive.random_cells(space.operations, nodes, number)
    return cells


def train_one(config, value: CnnGenotype, folder: epath.Path, debug: bool) -> dict[str, Any]:
    """Returns the row of one cell after its training in `folder`."""
    name = config.name
    seed = int(name.removeprefix("seed-")) if name.startswith("seed-") else None
    row: dict[str, Any] = {"cell": name, "seed": seed, "genotype": genotype.to_dict(value)}
    keys = ("valid_loss", "valid_accuracy", "valid_error", "valid_error_top5")
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
