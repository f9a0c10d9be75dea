"""The verb `evaluate`: the networks of a train run, scored once more.

Place: layer 4. It reads a run's newest good checkpoint and writes nothing.
"""

import statistics
from typing import Any

import jax
from etils import epath

from darts_dist import cluster, genotype, train
from darts_dist import run as runs
from darts_dist.checkpoint import Checkpoints
from darts_dist.errors import InputError
from darts_dist.genotype import CnnGenotype
from darts_dist.trainconfig import TrainConfig
from darts_dist.trainjournal import scores


def run(config: TrainConfig, workdir: str, debug: bool) -> dict[str, Any]:
    """Returns every seed's loss and errors (per cent), by the checkpoint in `workdir`."""
    runs.start(config)
    folder = epath.Path(workdir)
    path = folder / "genotype.json"
    value = genotype.load(str(path), "cnn") if path.exists() else train.load_genotype(config)
    assert isinstance(value, CnnGenotype)
    task = train.make_training(config, value)
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep)
    task.compile()
    states = task.init()
    found = checkpoints.restore(runs.shapes(task.join(states)), lambda meta: None)
    if found is None:
        raise InputError(f"{workdir} has no checkpoint; train it: darts-dist train")
    state, _, step = found
    sums = jax.device_get(cluster.gather(task.evaluate(task.split(state))))
    seeds = [
        {"seed": seed, "status": "completed", **scores(sums, at)}
        for at, seed in enumerate(task.seeds)
    ]
    metrics: dict[str, Any] = {"step": step, "examples": int(sums["count"][0])}
    for key in ("valid_loss", "valid_error", "valid_error_top5"):
        every = [one[key] for one in seeds]
        metrics[f"{key}_mean"] = statistics.fmean(every)
        metrics[f"{key}_deviation"] = statistics.stdev(every) if len(every) > 1 else 0.0
    return {"verb": "evaluate", "status": "completed", "seeds": seeds, "metrics": metrics}
