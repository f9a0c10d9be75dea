"""The verb `select`: the cells of a search, trained briefly, scored on what trained no weights,
ranked (arXiv 1806.09055, section 3.1).

Place: layer 4: a search run -> a run of `train` for each cell -> selection.json, genotype.json.
"""

import json
import os
from typing import Any

import jax
from etils import epath

from darts_dist import agreement, apart, cluster, genotype, metrics, opening, processes, train
from darts_dist import config as configs
from darts_dist import run as runs
from darts_dist.errors import DivergedError, GenotypeError, InputError
from darts_dist.genotype import CnnGenotype, Genotype
from darts_dist.spaces import derive, rnn
from darts_dist.trainconfig import (
    SelectConfig,
    TextSelectConfig,
    TextTrainConfig,
    TrainConfig,
    one_training,
)
from darts_dist.trainjournal import KEYS

FILE = "result.json"


def run(config: SelectConfig | TextSelectConfig, workdir: str, debug: bool) -> dict[str, Any]:
    """Returns what selection.json holds: a row for each cell, the best first, and the best seed.

    Each cell's training is a run of its own in `workdir`/select, resumed where it was interrupted
    and left alone where it is finished.  Raises InputError for a search that is not finished.
    """
    folder = epath.Path(workdir)
    if not (folder / FILE).exists():
        raise InputError(f"{workdir} has no result.json: finish its search first")
    cells = candidates(config, folder)
    owns = {name: one_training(config, name, genotype.to_json(cells[name])) for name in cells}
    ended = None if debug or config.selection.groups == 1 else side_by_side(config, owns, folder)
    if ended is None:
        ended = {
            name: in_turn(own, folder / opening.SELECTED / name, debug)
            for name, own in owns.items()
        }
    rows = [row_of(name, cells[name], ended[name], config.space.kind) for name in cells]
    rows.sort(key=lambda row: (row["valid_loss_mean"] is None, row["valid_loss_mean"]))
    scored = [row for row in rows if row["valid_loss_mean"] is not None]
    found = [row for row in scored if row["seed"] is not None]
    if not found:
        raise DivergedError(
            f"no cell of {workdir} could be trained; see {folder / opening.SELECTED}, and lower "
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
        metrics.write_whole(folder / "selection.json", metrics.to_json(result, indent=1) + "\n")
    return result


def in_turn(own: TrainConfig | TextTrainConfig, folder: epath.Path, debug: bool) -> dict[str, Any]:
    """Returns the metrics of one cell after its training on all devices, {} where it diverged."""
    try:
        return metrics_in(train.run(own, str(folder), debug), folder)
    except DivergedError:
        return {}


def side_by_side(
    config: SelectConfig | TextSelectConfig, owns: dict[str, Any], folder: epath.Path
) -> dict[str, dict[str, Any]] | None:
    """Returns the metrics of each cell, {} where it diverged, after trainings on groups of devices.

    Several hosts share the cells; each has groups of its own.  None where there is one group: then
    cells are trained in turn.
    """
    host = apart.look(config)
    if not host.divides and not config.selection.groups:
        return None
    several = processes.several(os.environ, config.cluster.platform)
    if several:
        runs.start(config, control=True)
        opening.agree(config, folder)
    hosts, own_place = (jax.process_count(), jax.process_index()) if several else (1, 0)
    groups = apart.groups_of_host(config.selection.groups, host, hosts, len(owns))
    if groups * hosts == 1:
        return None

    def share() -> list[str]:
        jobs = {}
        for name in list(owns)[own_place::hosts]:
            if opening.finished(owns[name], folder / opening.SELECTED / name) is None:
                file = folder / opening.SELECTED / f"{name}.toml"
                metrics.write_whole(file, configs.dump(owns[name]))
                jobs[name] = os.fspath(file), os.fspath(folder / opening.SELECTED / name)
        return sorted(apart.train(jobs, apart.environments(host, groups)))

    if hosts > 1:
        told = agreement.exchange(json.dumps(agreement.together(share)))
        diverged = [name for text in told for name in json.loads(text)]
    else:  # without a look at jax: what it sees of a GPU it holds
        diverged = share()

    def metrics_of(name: str) -> dict[str, Any]:
        run = folder / opening.SELECTED / name
        return {} if name in diverged else metrics_in(opening.read_result(run / FILE), run)

    return {name: metrics_of(name) for name in owns}


def metrics_in(result: dict[str, Any], run: epath.Path) -> dict[str, Any]:
    """Returns the metrics of a training's result; InputError for a damaged one."""
    found = result.get("metrics")
    if not isinstance(found, dict) or not isinstance(found.get("parameters"), int):
        raise opening.damaged(run / FILE, "no metrics of a training")
    return found


def candidates(config: SelectConfig | TextSelectConfig, folder: epath.Path) -> dict[str, Genotype]:
    """Returns the cells to compare by the names of their runs: those found, and random ones."""
    search = opening.read_result(folder / FILE)
    cells: dict[str, Genotype] = {}
    for one in search["seeds"]:
        if one["status"] == "completed":
            name = f"seed-{one['seed']}"
            try:
                cells[name] = genotype.from_dict(one.get("genotype"), config.space.kind)
            except GenotypeError as error:
                raise opening.damaged(folder / FILE, f"{name}: {error}") from None
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


def row_of(name: str, value: Genotype, found: dict[str, Any], kind: str) -> dict[str, Any]:
    """Returns the row of one cell, whose training ended with the metrics `found`."""
    seed = int(name.removeprefix("seed-")) if name.startswith("seed-") else None
    row: dict[str, Any] = {"cell": name, "seed": seed, "genotype": genotype.to_dict(value)}
    row["status"] = "completed" if found else "diverged"
    for key in KEYS[kind]:
        if key.startswith("valid_"):
            row[f"{key}_mean"] = found.get(f"{key}_mean")
            row[f"{key}_deviation"] = found.get(f"{key}_deviation")
    for key in ("parameters", "multiply_adds"):
        row[key] = found.get(key)
    return row
