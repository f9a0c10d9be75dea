#!/usr/bin/env python3
"""Compare this package with vectors that the original computed; exit 1 when anything differs."""

import dataclasses
import itertools
import json
import pathlib
import sys

TOOLS = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]

from parity import (  # noqa: E402
    checkpoints_cnn,
    checkpoints_rnn,
    cnn_eval,
    cnn_genotypes,
    cnn_ops,
    cnn_param_counts,
    cnn_search,
    rnn,
    rnn_genotypes,
    rnn_small,
    train_pieces,
)
from parity.vectors import Row, VectorError  # noqa: E402

from darts_dist import cluster, ending  # noqa: E402
from darts_dist.cli import Parser  # noqa: E402

STEMS = (
    "cnn_ops",
    "cnn_search",
    "cnn_eval",
    "rnn",
    "cnn_genotypes",
    "rnn_genotypes",
    "train_pieces",
    "cnn_param_counts",
    "rnn_small",
    "checkpoints_cnn",
    "checkpoints_rnn",
)
MODULES = (
    cnn_ops,
    cnn_search,
    cnn_eval,
    rnn,
    cnn_genotypes,
    rnn_genotypes,
    train_pieces,
    cnn_param_counts,
    rnn_small,
    checkpoints_cnn,
    checkpoints_rnn,
)
CHECKS = {module.STEM: module.check for module in MODULES}


def rows_of(directory, stem):
    """Yields a stem's rows; one failed row when it is broken, empty or has no check."""
    if stem not in CHECKS:
        yield Row(stem, "(all)", "", "", float("inf"), 0.0, "not covered")
        return
    count = 0
    try:
        for row in CHECKS[stem](directory):
            count += 1
            yield row
    except VectorError as error:
        yield Row(stem, "(all)", "", "", float("inf"), 0.0, str(error))
        return
    if not count:
        yield Row(stem, "(all)", "", "", float("inf"), 0.0, "holds no cases")


def lines(rows):
    """Returns the lines of one case and run: the worst quantity, or all failures."""
    failures = [row for row in rows if not row.passed]
    worst = max(rows, key=lambda row: row.difference / row.tolerance if row.tolerance else 0.0)
    out = []
    for row in failures or [worst]:
        name = f"{row.stem} {row.case} {row.run}".strip()
        numbers = f"{row.difference:8.1e} {row.tolerance:8.1e}"
        verdict = "pass" if row.passed else f"fail {row.note}".strip()
        out.append(f"{name:56} {row.quantity:28} {numbers} {verdict}")
    return out


def parse(arguments):
    """Returns the parsed command line; InputError for one that makes no sense."""
    parser = Parser(description=__doc__)
    parser.add_argument("directory", help="folder of the vector files")
    parser.add_argument("--only", nargs="+", choices=STEMS, metavar="STEM", help=", ".join(STEMS))
    parser.add_argument("--json", action="store_true", help="every quantity, as JSON")
    return parser.parse_args(arguments)


def main(arguments, start=lambda: None):
    """Prints the comparison and returns the exit code: 0 when every case passed.

    start(): what has to come before the first case.
    """
    args = parse(arguments)
    start()
    rows, passed, failed = [], 0, 0
    for stem in args.only or STEMS:
        for _, group in itertools.groupby(rows_of(args.directory, stem), Row.place):
            own = list(group)
            good = all(row.passed for row in own)
            passed, failed = passed + good, failed + (not good)
            rows += own
            if not args.json:
                print(*lines(own), sep="\n", flush=True)
    if args.json:
        out = [dataclasses.asdict(row) | {"passed": row.passed} for row in rows]
        print(json.dumps({"passed": passed, "failed": failed, "rows": out}, indent=1))
    else:
        print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    ending.finish(lambda: main(sys.argv[1:], cluster.start))
