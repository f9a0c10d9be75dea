#!/usr/bin/env python3
"""Get data sets and prepare them.

    python tools/prepare_data.py download cifar10|cifar100|wikitext2 OUT [--url ADDRESS]
    [--sha256 HEX] [--tries N] [--force]
    python tools/prepare_data.py instructions ptb|imagenet
    python tools/prepare_data.py arrayrecord SRC DST [--resize-short PX] [--per-shard N]
    python tools/prepare_data.py subset SRC DST --fraction F
    python tools/prepare_data.py check SRC

download fetches from the official address, checks size and SHA-256, and goes on where an earlier
start stopped. CIFAR stays the .tar.gz that data.path takes; of WikiText-2's archive train.txt,
valid.txt and test.txt are unpacked beside it. instructions tells how people get what no program may
fetch, and the layout that is wanted.

The rest works on folders of pictures, train/<class>/* with val/<class>/*, or <class>/*. arrayrecord
writes such a folder into few large files, for data.kind=array_record; it goes on where an earlier
start stopped. subset makes a folder of hard links to an equal share of each class's training
pictures, to search on. check decodes every picture, of a folder or of arrayrecord's files, and
prints the names of those that cannot be read.

Exit codes: 0 done; 2 bad input, broken pictures, or an address that does not give the published
file; 5 the disk; 75 interrupted or no connection: what is there is kept, start again.
"""

import contextlib
import dataclasses
import pathlib
import re
import sys
import time

from tqdm import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from darts_dist import ending
from darts_dist.cli import Parser
from darts_dist.data import download, folder, published, records, stored, subset
from darts_dist.errors import DataError, InputError

LINE_EVERY_S = 5  # seconds between two lines of progress where there is no terminal


def main(arguments):
    """Returns the exit code of one subcommand."""
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (add_download, add_instructions, add_arrayrecord, add_subset, add_check):
        add(commands)
    asked = parser.parse_args(arguments)
    return asked.run(asked)


def add_download(commands):
    """Adds the subcommand `download`."""
    known = ", ".join(published.REMOTES)
    parser = commands.add_parser("download", help=f"fetch {known}")
    parser.add_argument("name", metavar="NAME", help=f"of {known}")
    parser.add_argument("out", metavar="OUT", help="folder, made if need be")
    parser.add_argument("--url", metavar="ADDRESS", help="a mirror; the checksum stays")
    parser.add_argument(
        "--sha256", metavar="HEX", help="wanted of a mirror that has packed the same data anew"
    )
    parser.add_argument(
        "--tries",
        type=int,
        default=download.TRIES,
        metavar="N",
        help="in a row, without progress (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="fetch anew, replace what is there")
    parser.set_defaults(run=run_download)


def run_download(asked):
    """Fetches, verifies and, where it is an archive of texts, unpacks; prints what to read."""
    if asked.name in published.INSTRUCTIONS:
        raise InputError(
            f"no program may fetch {asked.name}; `prepare_data.py instructions {asked.name}` tells "
            f"how to get it and the layout that is wanted"
        )
    if asked.name not in published.REMOTES:
        raise InputError(f"{asked.name} is unknown; there are: {', '.join(published.REMOTES)}")
    if asked.tries < 1:
        raise InputError(f"--tries {asked.tries}; wanted 1 or more")
    if "://" in asked.out:
        raise InputError(f"OUT {asked.out} is an address; wanted a folder on this machine")
    remote = published.REMOTES[asked.name]
    if asked.sha256 is not None:
        if not re.fullmatch("[0-9a-fA-F]{64}", asked.sha256):
            raise InputError(f"--sha256 {asked.sha256} is not 64 hexadecimal digits")
        remote = dataclasses.replace(remote, sha256=asked.sha256.lower(), size=0)
    if asked.url is not None:
        remote = dataclasses.replace(remote, url=asked.url)
    folder = pathlib.Path(asked.out).expanduser()
    with contextlib.closing(Progress()) as progress:
        archive = download.fetch(
            remote,
            folder,
            force=asked.force,
            tries=asked.tries,
            say=progress.say,
            report=progress.show,
        )
    if asked.name == "wikitext2":
        published.unpack_texts(archive, folder, force=asked.force)
        print(f"data.kind=text data.path={folder}")
    else:
        print(f"data.kind={asked.name} data.path={archive}")
    return 0


def add_instructions(commands):
    """Adds the subcommand `instructions`."""
    known = ", ".join(published.INSTRUCTIONS)
    parser = commands.add_parser("instructions", help=f"tell how to get {known}")
    parser.add_argument("name", choices=published.INSTRUCTIONS, metavar="NAME", help=f"of {known}")
    parser.set_defaults(run=run_instructions)


def run_instructions(asked):
    """Prints how to get a data set that no program may fetch."""
    print(published.INSTRUCTIONS[asked.name])
    return 0


def add_arrayrecord(commands):
    """Adds the subcommand `arrayrecord`."""
    parser = commands.add_parser("arrayrecord", help="write a folder of pictures into few files")
    parser.add_argument("source", metavar="SRC", help="folder of pictures")
    parser.add_argument("out", metavar="DST", help="folder, made if need be")
    parser.add_argument(
        "--resize-short",
        type=int,
        default=0,
        metavar="PX",
        help="make pictures smaller whose short side has more pixels; default: none",
    )
    parser.add_argument(
        "--per-shard", type=int, default=1250, metavar="N", help="pictures in a file (%(default)s)"
    )
    parser.set_defaults(run=run_arrayrecord)


def run_arrayrecord(asked):
    """Writes the files; prints what to read."""
    if asked.resize_short < 0 or asked.per_shard < 1:
        raise InputError("--resize-short and --per-shard want a whole number above 0")
    out = pathlib.Path(asked.out).expanduser()
    records.write(
        asked.source,
        out,
        per_shard=asked.per_shard,
        short_px=asked.resize_short,
        say=lambda text: print(text, flush=True),
    )
    print(f"data.kind=array_record data.path={out}")
    return 0


def add_subset(commands):
    """Adds the subcommand `subset`."""
    parser = commands.add_parser("subset", help="a share of each class's training pictures")
    parser.add_argument("source", metavar="SRC", help="folder of pictures")
    parser.add_argument("out", metavar="DST", help="folder that is not there yet")
    parser.add_argument(
        "--fraction",
        type=float,
        required=True,
        metavar="F",
        help="of each class, above 0, at most 1",
    )
    parser.set_defaults(run=run_subset)


def run_subset(asked):
    """Links the pictures; prints how many, and what to read."""
    if not 0 < asked.fraction <= 1:
        raise InputError(f"--fraction {asked.fraction}; wanted above 0, at most 1")
    out = pathlib.Path(asked.out).expanduser()
    count, classes = subset.link(asked.source, out, asked.fraction)
    print(f"{count} pictures of {classes} classes")
    print(f"data.kind=imagenet data.path={out}")
    return 0


def add_check(commands):
    """Adds the subcommand `check`."""
    parser = commands.add_parser("check", help="decode every picture, name the broken ones")
    parser.add_argument(
        "source", metavar="SRC", help="folder of pictures, or of arrayrecord's files"
    )
    parser.set_defaults(run=run_check)


def run_check(asked):
    """Prints the names of broken pictures; DataError where there are some."""
    packed = records.is_packed(asked.source)
    splits = records.splits(asked.source) if packed else folder.splits(asked.source)
    broken = total = 0
    for split in splits:
        store, _, _ = (records if packed else stored).open_folder(asked.source, split)
        with contextlib.closing(Progress("pictures", 1)) as progress:
            for name, reason in stored.find_broken(store, progress.show):
                progress.say(f"{name}: {reason}")
                broken += 1
        total += len(store.names)
    if broken:
        raise DataError(
            f"{asked.source}: {broken} of {total} pictures are broken; mend or remove them, or "
            "leave them out: data.broken=skip"
        )
    print(f"{total} pictures, all whole")
    return 0


class Progress:
    """How far something is: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, unit="MB", size=1e6):
        self._unit, self._size = unit, size
        self._bar, self._said_s = None, time.monotonic()

    def show(self, done, total):
        """Shows that `done` of `total` (0: not known) is done; both are `size` to a unit."""
        if sys.stderr.isatty():
            if self._bar is None:
                unit = "B" if self._unit == "MB" else f" {self._unit}"
                self._bar = tqdm(
                    total=total or None,
                    initial=done,
                    unit=unit,
                    unit_scale=True,
                    dynamic_ncols=True,
                )
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._said_s >= LINE_EVERY_S or done == total:
            self._said_s = time.monotonic()
            digits = 0 if self._size == 1 else 1
            of = f" of {total / self._size:.{digits}f}" if total else ""
            self.say(f"{done / self._size:.{digits}f}{of} {self._unit}")

    def say(self, text):
        """Writes a line to stdout."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stdout)

    def close(self):
        """Leaves the bar as it is; what comes after it has a line of its own."""
        if self._bar is not None:
            self._bar.close()


if __name__ == "__main__":
    ending.finish(lambda: main(sys.argv[1:]))
