#!/usr/bin/env python3
"""Make a run of a network in a file of PyTorch, or such a file of a run's network.

    python tools/import_torch.py FILE.pt OUT genotype=NAME [key.path=value ...] [--epochs-done N]
    python tools/import_torch.py --export RUN FILE.pt [--seed S]

OUT becomes a run that `darts-dist evaluate OUT` scores, and that
`darts-dist train OUT/config.toml --workdir OUT` trains on: from the first epoch, or behind the N
that are done. Sizes follow from the tensors, the rest is as for `darts-dist train`; momentum begins
at zero. The other way, FILE.pt gets the state dict that the original loads, of the run's newest
checkpoint: of its averaged weights where it keeps some.
"""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from darts_dist import (
    checkpoint,
    config,
    ending,
    evaluate,
    genotype,
    metrics,
    opening,
    torchfile,
    train,
    weightfile,
)
from darts_dist import run as runs
from darts_dist.cli import Parser
from darts_dist.errors import CheckpointError, InputError
from darts_dist.interop_network import network_to_torch
from darts_dist.interop_recurrent import recurrent_to_torch
from darts_dist.trainconfig import TRAININGS


def main(arguments):
    """Returns the exit code; prints where the network is now."""
    parser = Parser(description=__doc__)
    parser.add_argument("source", metavar="FILE.pt|RUN", help="what is read")
    parser.add_argument("target", metavar="OUT|FILE.pt", help="what is written")
    # Without a default argparse counts them among what is missing.
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key.path=value", help="see train --help"
    )
    parser.add_argument("--export", action="store_true", help="from a run to a file")
    parser.add_argument("--epochs-done", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--seed", type=int, metavar="S", help="which network; default: the first")
    asked = parser.parse_intermixed_args(arguments)
    if asked.export:
        if asked.overrides or asked.epochs_done:
            raise InputError("--export takes a run, a file and --seed; nothing else changes it")
        export_file(asked.source, asked.target, asked.seed)
    else:
        if asked.seed is not None:
            raise InputError("--seed is for --export; a run of seeds: seeds.first=S")
        import_file(asked.source, asked.target, asked.overrides, asked.epochs_done)
    print(asked.target)
    return 0


def import_file(path, out, overrides, epochs_done=0):
    """Writes a run folder with the network of a file."""
    settings = weightfile.config_of(path, overrides)
    epochs = settings.schedule.epochs
    if not 0 <= epochs_done <= epochs:
        raise InputError(f"--epochs-done {epochs_done}; wanted 0 to schedule.epochs = {epochs}")
    folder = config.place(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{out} is there already; name a new folder")
    runs.start(settings)
    if settings.space.kind == "rnn":
        task, states, _ = evaluate.text_of(settings, path)
    else:
        task = train.make_training(settings, train.load_genotype(settings))
        states = task.init_with(*evaluate.read_weights(task, path))
    step = epochs_done * task.epoch_steps
    states = tuple(dataclasses.replace(state, step=state.step + step) for state in states)
    folder.mkdir(parents=True, exist_ok=True)
    metrics.write_whole(folder / "config.toml", config.dump(settings))
    metrics.write_whole(folder / "genotype.json", genotype.to_json(task.genotype) + "\n")
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    meta = opening.meta(settings, task.epoch_steps, [], task.about())
    checkpoints.save(step, task.join(states), meta)
    checkpoints.close()


def export_file(run, path, seed=None):
    """Writes the state dict of a network of a run to a file."""
    record, packed = newest(run)
    meta = record["meta"]
    if "genotype" not in meta:
        raise CheckpointError(f"{run} is no run of train: its checkpoint names no genotype")
    settings = config.parse_as(TRAININGS, meta["config"], f"the checkpoint of {run}", "exported")
    first, count = settings.seeds.first, settings.seeds.count
    at = 0 if seed is None else seed - first
    if not 0 <= at < count:
        raise InputError(f"--seed {seed}; {run} has {first} to {first + count - 1}")
    tree = unpack(record["layout"], packed, at)
    if settings.space.kind == "rnn":
        torchfile.write(path, recurrent_to_torch(tree["course"]["best"], twice=True))
        return
    params, stats = (
        tree["average"].values() if "average" in tree else (tree["params"], tree["stats"])
    )
    naming = {
        "genotype": genotype.from_dict(meta["genotype"], "cnn"),
        "stem": settings.network.stem,
        "layers": settings.network.layers,
    }
    torchfile.write(path, network_to_torch(params, stats, **naming))


def newest(run):
    """Returns (description, packed arrays) of a run's newest checkpoint that verifies."""
    folder = opening.checkpoints_of(run)
    checkpoint.quiet()
    every = [one for one in folder.iterdir() if one.name.isdecimal() and checkpoint.complete(one)]
    for one in sorted(every, key=lambda path: -int(path.name)):
        try:
            record = checkpoint.read_record(one)
            packed = checkpoint.read_arrays(one, record["layout"])
            checkpoint.verify(packed)
            return record, packed
        except checkpoint.Unusable as error:
            print(f"warning: {one} is broken and left out: {error}", file=sys.stderr)
    raise CheckpointError(f"{folder} holds no checkpoint that can be used")


def unpack(layout, packed, at):
    """Returns the weights and statistics of the seed at a place, as trees by field of the state."""
    trees = {}
    for leaf in layout:
        field, *path = [int(key) if key.isdecimal() else key for key in leaf.name.split("/")]
        if field in ("params", "stats", "average", "course"):
            branch = trees.setdefault(field, {})
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            flat = packed[leaf.row][at, leaf.offset : leaf.offset + leaf.size]
            branch[path[-1]] = flat.reshape(leaf.shape[1:])
    return trees


if __name__ == "__main__":
    ending.finish(lambda: main(sys.argv[1:]))
