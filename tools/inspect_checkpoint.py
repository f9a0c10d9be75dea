#!/usr/bin/env python3
"""Show what is in the checkpoints of a run: steps, completeness, checksums, leaves, sizes.

    python tools/inspect_checkpoint.py RUN [--json]

Nothing is changed. The exit code is 0 when the newest complete checkpoint is whole, 2 without one.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from darts_dist import checkpoint, ending, opening
from darts_dist.cli import Parser
from darts_dist.errors import CheckpointError


def main(arguments):
    """Returns the exit code; prints a table, or one JSON object."""
    parser = Parser(description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    asked = parser.parse_args(arguments)
    folder = opening.checkpoints_of(asked.run)
    found = inspect(folder)
    if asked.json:
        print(json.dumps({"run": str(folder.parent), "checkpoints": found}))
    else:
        show(found)
    whole = [entry["state"] == "verified" for entry in found if entry["state"] != "unfinished"]
    if not whole:
        raise CheckpointError(f"{folder} holds no complete checkpoint")
    if not whole[-1]:
        raise CheckpointError(
            f"the newest checkpoint in {folder} is broken; a resume leaves it out"
        )
    return 0


def inspect(folder):
    """Returns {"name", "state", "bytes", "problem", "leaves"} of all in a checkpoints folder.

    state: "verified", "broken" or "unfinished".  leaves: {"name", "dtype", "shape"}.
    """
    checkpoint.quiet()
    folders = [path for path in folder.iterdir() if path.is_dir()]
    return [look(path) for path in sorted(folders, key=lambda path: (len(path.name), path.name))]


def look(path):
    """Returns the entry of one folder."""
    entry = {"name": path.name, "state": "unfinished", "bytes": size_of(path)}
    entry |= {"problem": "", "leaves": []}
    if not path.name.isdecimal() or not checkpoint.complete(path):
        return entry
    try:
        layout = checkpoint.read_record(path)["layout"]
        entry["leaves"] = [
            {"name": leaf.name, "dtype": leaf.dtype, "shape": list(leaf.shape)} for leaf in layout
        ]
        checkpoint.verify(checkpoint.read_arrays(path, layout))
        return {**entry, "state": "verified"}
    except checkpoint.Unusable as error:
        return {**entry, "state": "broken", "problem": str(error)}


def size_of(path):
    """Returns the bytes of a file, or of all files in a folder."""
    return sum(map(size_of, path.iterdir())) if path.is_dir() else path.stat().length


def show(found):
    """Prints a line for each checkpoint, and the leaves of the newest that can be read."""
    for entry in found:
        name, state, size = entry["name"], entry["state"], entry["bytes"] / 1e6
        print(f"{name:>10}  {state:<10}  {size:9.3f} MB  {entry['problem']}".rstrip())
    readable = [entry for entry in found if entry["leaves"]]
    for leaf in readable[-1]["leaves"] if readable else []:
        print(f"    {leaf['dtype']:<10} {leaf['shape']!s:<24} {leaf['name']}")


if __name__ == "__main__":
    ending.finish(lambda: main(sys.argv[1:]))
