"""The verb `evaluate`: the networks of a train run, or one in a file of PyTorch, scored.

Place: layer 4. It reads a run's newest good checkpoint, or the file, and writes nothing.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from darts_dist import cluster, genotype, interop_recurrent, texttask, torchfile, train, weightfile
from darts_dist import run as runs
from darts_dist.checkpoint import Checkpoints
from darts_dist.data import sources
from darts_dist.data.sources import AnyPictures
from darts_dist.errors import CheckpointError, ConfigError, InputError
from darts_dist.interop import COUNTER, Tree, from_torch
from darts_dist.interop_network import network_entries
from darts_dist.task import States
from darts_dist.tellings import TELLINGS, over_seeds, scored
from darts_dist.texttask import TextTraining
from darts_dist.trainconfig import TextTrainConfig, TrainConfig
from darts_dist.training import Training


def run(config: TrainConfig | TextTrainConfig, workdir: str, debug: bool) -> dict[str, Any]:
    """Returns every seed's scores: loss and errors (per cent), or losses and perplexities.

    workdir: of a run, or a file of PyTorch.
    """
    del debug
    runs.start(config)
    if isinstance(config, TextTrainConfig):
        task, states, about = text_of(config, workdir)
        found = jax.device_get(cluster.gather(task.last_scores(states)))
        rows = [TELLINGS["rnn"].last(found, at) for at in range(len(task.seeds))]
        about["words"] = int(task.test[1:].size)
    else:
        make = _of_file if weightfile.is_file(workdir) else _of_run
        task, states, about = make(config, workdir)
        sums = jax.device_get(cluster.gather(task.evaluate(states)))
        rows = [TELLINGS["cnn"].line("valid", sums, at) for at in range(len(task.seeds))]
        about["examples"] = int(sums["count"][0])
    seeds = [
        {"seed": seed, "status": "completed", **row}
        for seed, row in zip(task.seeds, rows, strict=True)
    ]
    metrics: dict[str, Any] = {
        **about,
        "parameters": task.parameters,
        "multiply_adds": task.multiply_adds,
        **over_seeds(scored(rows), tuple(rows[0])),
    }
    return {"verb": "evaluate", "status": "completed", "seeds": seeds, "metrics": metrics}


def text_of(config: TextTrainConfig, target: str) -> tuple[TextTraining, States, dict[str, Any]]:
    """Returns a task on the texts that a config names, and states whose best weights are those of
    a run, or of a file.
    """
    if not weightfile.is_file(target):
        return _of_run(config, target)
    params, there = interop_recurrent.read(target)
    value = train.load_genotype(config) if config.genotype or there is None else there
    task = TextTraining(config, value, texttask.load(config))
    wanted, found = (jax.tree.map(lambda x: x.shape, one) for one in (task.shapes(), params))
    if wanted != found:
        raise CheckpointError(
            f"{target} has tensors of other sizes: {_sizes(found)}; the config and its texts "
            f"make {_sizes(wanted)}; check data.path, genotype and network.channels"
        )
    return task, task.init_with(params), {}


def _sizes(shapes: Any) -> str:
    words, width = shapes["embedding"]
    return f"{words} words, {width} channels, {shapes['cell']['nodes'][0]} nodes"


def _of_run(config: Any, workdir: str) -> tuple[Any, States, dict[str, Any]]:
    folder = epath.Path(workdir)
    path = folder / "genotype.json"
    kind = config.space.kind
    value = genotype.load(str(path), kind) if path.exists() else train.load_genotype(config)
    task = train.make_training(config, value)
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep, owned=False)
    like = runs.shapes(task.join(task.init()))
    found = checkpoints.restore(like, lambda meta: None)
    if found is None:
        raise InputError(f"{workdir} has no checkpoint; train it: darts-dist train")
    state, _, step = found
    return task, task.split(state), {"step": step}


def _of_file(config: TrainConfig, path: str) -> tuple[Training, States, dict[str, Any]]:
    value = train.load_genotype(config)
    if config.data.train_fraction < 1:
        task = train.make_training(config, value)
    else:
        pictures = _standardised(config, sources.load(config, "test"))
        task = Training(config, value, pictures, pictures)
    return task, task.init_with(*read_weights(task, path)), {}


def _standardised(config: TrainConfig, pictures: AnyPictures) -> AnyPictures:
    """Returns test pictures with the mean and std that others train on; none is measured."""
    mean, std = config.data.mean or pictures.mean, config.data.std or pictures.std
    if config.network.stem == "imagenet" and config.network.in_channels == 3:
        mean, std = mean or sources.IMAGENET_MEAN, std or sources.IMAGENET_STD
    if not (mean and std):
        raise ConfigError(
            f"data.kind={config.data.kind} has no published mean and std; give those that the "
            "network was trained with, one for each channel: data.mean=[0.5] data.std=[0.25]"
        )
    return dataclasses.replace(pictures, mean=mean, std=std)


def read_weights(task: Training, path: str) -> tuple[Tree, Tree]:
    """Returns (params, stats) of a task's network from a file of PyTorch.

    Raises CheckpointError that lists the tensors which do not fit the task's config.
    """
    network, state = task.config.network, torchfile.read_state(path)
    weights = {name: value for name, value in state.items() if not name.endswith(COUNTER)}
    for name, value in weights.items():
        if value.dtype.kind != "f":
            raise CheckpointError(f"{path}: {name} is of {value.dtype}; wanted floating point")
        if not np.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} has numbers that are not finite")
    entries = network_entries(
        genotype=task.genotype,
        stem=network.stem,
        channels=network.channels,
        channels_in=network.in_channels,
        layers=network.layers,
        classes=len(task.pictures.class_names),
        auxiliary=task.config.regularisation.auxiliary_weight > 0,
    )
    try:
        return from_torch(weights, entries)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; check genotype and network.*") from None
