#!/usr/bin/env python3
"""Measure parts of the package on this machine."""

import argparse
import json
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from bench_input import bench_input
from bench_kernels import SIZES, bench_kernels
from bench_loop import bench_loop
from bench_memory import bench_memory
from bench_precision import bench_precision
from bench_rnn import bench_rnn
from bench_search import bench_search
from bench_seeds import bench_seeds

from darts_dist import cli, ending
from darts_dist.cli import Parser
from darts_dist.summary import aligned

BENCHES = {
    "input": bench_input,
    "kernels": bench_kernels,
    "search": bench_search,
    "rnn": bench_rnn,
    "loop": bench_loop,
    "seeds": bench_seeds,
    "memory": bench_memory,
    "precision": bench_precision,
}


def count(text):
    """Returns a whole number from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}; wanted a whole number >= 1")
    return int(text)


def duration(text):
    """Returns seconds, finite and more than none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}; wanted seconds > 0")
    return value


def print_table(rows):
    """Prints dicts of equal keys as a table; texts as they are, numbers with commas."""
    table = [list(rows[0])]
    for row in rows:
        table.append([v if isinstance(v, str) else f"{v:,}" for v in row.values()])
    print(*aligned(table), sep="\n")


def main(arguments):
    """Runs one bench by the command line; returns the exit code."""
    lines = [f"  {name:10} {bench.__doc__}" for name, bench in BENCHES.items()]
    parser = Parser(description=__doc__ + "\n\nWHAT is one of:\n" + "\n".join(lines))
    parser.add_argument("bench", metavar="WHAT", choices=list(BENCHES), help=", ".join(BENCHES))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    group = parser.add_argument_group("input")
    group.add_argument("--seconds", type=duration, default=2.0, help="for each row; default 2")
    group = parser.add_argument_group("kernels", "of the search network of the paper by default")
    group.add_argument(
        "--what",
        dest="part",
        choices=("cell", "network", "step"),
        default="cell",
        help="a pass of a cell (default), the passes of the network, or all programs of a step",
    )
    group.add_argument("--config", metavar="FILE", help="a search's config instead")
    group.add_argument(
        "--topology",
        metavar="KIND:SHAPE",
        default="cpu:1",
        help="to compile for: cpu:N, h100:N, v5e:AxB, ... as plan takes them; default cpu:1",
    )
    for option, (knob, meaning) in SIZES.items():
        group.add_argument(f"--{option}", type=count, metavar="N", help=f"{meaning} ({knob})")
    group = parser.add_argument_group("search", "the sizes of kernels too; the paper's by default")
    group.add_argument(
        "--quick",
        action="store_true",
        help="3 cells, 16x16 pixels, 16 pictures, where not given",
    )
    group.add_argument(
        "--peer", choices=("torch",), help="the same steps in eager PyTorch beside; rnn too"
    )
    group.add_argument(
        "--repeats",
        type=count,
        metavar="N",
        default=5,
        help="turns that count; default 5; rnn, loop, seeds and memory too",
    )
    group = parser.add_argument_group("precision", "the sizes of kernels, and --config, too")
    group.add_argument("--steps", type=count, metavar="N", default=500, help="default 500")
    group.add_argument(
        "--layout",
        choices=("batch_minor", "channels_last"),
        help="of maps in memory: CPU's (default here), or that of GPUs and TPUs",
    )
    group = parser.add_argument_group(
        "rnn",
        "--channels and --batch too; the paper's sizes by default; masks of dropout are drawn",
    )
    for option, size, meaning in (
        ("window", 35, "words of a column"),
        ("words", 10_000, "of the vocabulary"),
        ("nodes", 8, "of the cell"),
    ):
        group.add_argument(
            f"--{option}", type=count, metavar="N", default=size, help=f"{meaning}; default {size}"
        )
    args = parser.parse_args(arguments)
    if args.bench in ("rnn", "search", "loop", "seeds", "memory", "precision"):
        cli.use_huge_pages()
    result = BENCHES[args.bench](args)
    if args.json:
        print(json.dumps(result))
    else:
        for rows in result.values():
            print_table(rows if isinstance(rows, list) else [rows])
    return 0


if __name__ == "__main__":
    ending.finish(lambda: main(sys.argv[1:]))
