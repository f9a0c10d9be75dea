#!/usr/bin/env python3
"""Get data sets and prepare them.

    python tools/prepare_data.py download cifar10|cifar100|wikitext2 OUT [--url ADDRESS]
    [--sha256 HEX] [--tries N] [--force]
    python tools/prepare_data.py instructions ptb|imagenet

download fetches from the official address, checks size and SHA-256, and goes on where an earlier
start stopped. CIFAR stays the .tar.gz that data.path takes; of WikiText-2's archive train.txt,
valid.txt and test.txt are unpacked beside it. instructions tells how people get what no program may
fetch, and the layout that is wanted.

Exit codes of download: 0 whole and verified; 2 bad input, or an address that does not give the
published file; 5 the disk; 75 interrupted or no connection: what came is kept, start again.
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
from darts_dist.data import download, published
from darts_dist.errors import InputError

LINE_EVERY_S = 5  # seconds between two lines of progress where there is no terminal


def main(arguments):
    """Returns the exit code of one subcommand."""
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (add_download, add_instructions):
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


class Progress:
    """How far a download is: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self):
        self._bar, self._said_s = None, time.monotonic()

    def show(self, done, total):
        """Shows that `done` of `total` bytes (0: not known) are here."""
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(
                    total=total or None, initial=done, unit="B", unit_scale=True, dynamic_ncols=True
                )
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._said_s >= LINE_EVERY_S or done == total:
            self._said_s = time.monotonic()
            self.say(
                f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
            )

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
