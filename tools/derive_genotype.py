#!/usr/bin/env python3
"""Derive a genotype from the alphas of any epoch of a search run.

    python tools/derive_genotype.py RUN [--epoch N] [--seed S] [--rule NAME] [--format
    json|text|python]

Without --epoch the last epoch counts, without --seed every seed gets a line. The alphas of every
epoch are in the run's alphas.npz, the operations in its config.toml.
"""

import io
import pathlib
import sys
import zipfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from darts_dist import config, ending, genotype
from darts_dist.cli import Parser
from darts_dist.errors import DataError, InputError
from darts_dist.spaces import derive

FORMATS = ("json", "text", "python")


def main(arguments):
    """Returns the exit code; prints one genotype for each seed asked for."""
    parser = Parser(description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a search run")
    parser.add_argument("--epoch", type=int, metavar="N", help="default: the last one")
    parser.add_argument("--seed", type=int, metavar="S", help="default: every seed")
    parser.add_argument(
        "--rule", default="top2", metavar="NAME", help=f"of {', '.join(derive.RULES)}"
    )
    parser.add_argument("--format", default="json", choices=FORMATS)
    asked = parser.parse_args(arguments)
    if asked.rule not in derive.RULES:
        raise InputError(f"--rule {asked.rule} is unknown; there are: {', '.join(derive.RULES)}")
    run = config.place(asked.run)
    arrays = read_alphas(run)
    settings = config.load(str(run / "config.toml"))
    epochs, seeds = arrays.pop("epochs").tolist(), arrays.pop("seeds").tolist()
    epoch = place_of("--epoch", asked.epoch, epochs) if asked.epoch is not None else -1
    chosen = range(len(seeds))
    if asked.seed is not None:
        chosen = [place_of("--seed", asked.seed, seeds)]
    for place in chosen:
        alphas = {cell: values[epoch, place] for cell, values in arrays.items()}
        space = settings.space
        value = derive.from_alphas(alphas, space.operations, space.kind, asked.rule)
        print(written(value, asked.format, f"SEED_{seeds[place]}"))
    return 0


def read_alphas(run):
    """Returns the arrays of a run's alphas.npz: [epochs, S, E, K] by cell, "epochs" and "seeds"."""
    path = run / "alphas.npz"
    if not run.exists():
        raise DataError(f"{run}: there is no such run")
    if not path.exists():
        raise DataError(
            f"{path} is not there: {run} is no search run, or its first epoch is not over"
        )
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    cells = [name for name in arrays if name not in ("epochs", "seeds")]
    if not cells or len(cells) + 2 != len(arrays) or not arrays["epochs"].size:
        raise DataError(f"{path} holds no alphas; found the arrays {', '.join(arrays) or 'none'}")
    return arrays


def place_of(option, number, numbers):
    """Returns where a number is in a list; InputError that tells what there is."""
    if number not in numbers:
        there = ", ".join(map(str, numbers))
        raise InputError(f"{option} {number} is not in this run; there are: {there}")
    return numbers.index(number)


def written(value, form, name):
    """Returns a genotype in one of FORMATS; "python" is the text form with a name."""
    if form == "json":
        return genotype.to_json(value)
    text = genotype.to_text(value)
    return f"{name} = {text}" if form == "python" else text


if __name__ == "__main__":
    ending.finish(lambda: main(sys.argv[1:]))
