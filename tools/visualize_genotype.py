#!/usr/bin/env python3
"""Draw the cells of a genotype.

    python tools/visualize_genotype.py GENOTYPE OUT.(svg|png|pdf|dot) [--cell NAME]
    [--space cnn|rnn]

GENOTYPE is a published name (DARTS_V2, NASNet, ...), a file with a genotype as JSON or text, the
folder of a search run, or the genotype itself. The picture has all its cells, one under the other,
or the one of --cell. No other program is needed; a pdf needs the extra `pictures`.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from darts_dist import config, ending, genotype, metrics, picture
from darts_dist.cli import Parser
from darts_dist.errors import InputError


def main(arguments):
    """Returns the exit code; writes the picture and prints where it is."""
    parser = Parser(description=__doc__)
    parser.add_argument("genotype", metavar="GENOTYPE", help="name, file, run or genotype")
    parser.add_argument("out", metavar="OUT", help="ends in " + ", ".join(picture.FORMATS))
    parser.add_argument("--cell", metavar="NAME", help="of normal, reduce, recurrent; default: all")
    parser.add_argument(
        "--space", default="", choices=("cnn", "rnn"), help="for names that are in both"
    )
    asked = parser.parse_args(arguments)
    form = pathlib.PurePath(asked.out).suffix.removeprefix(".").lower()
    if form not in picture.FORMATS:
        known = ", ".join(f".{name}" for name in picture.FORMATS)
        raise InputError(f"{asked.out} does not end in the name of a format: {known}")
    value = genotype.load(asked.genotype, asked.space)
    there = picture.cells(value)
    if asked.cell is not None and asked.cell not in there:
        raise InputError(f"--cell {asked.cell} is not in this genotype; it has {', '.join(there)}")
    only = (asked.cell,) if asked.cell else ()
    metrics.write_whole(
        config.place(asked.out), picture.render(value, form, title_of(asked.genotype), only)
    )
    print(asked.out)
    return 0


def title_of(source):
    """Returns a published name, the name of a file or run, or nothing for a written genotype."""
    text = source.strip()
    if any(text in table for table in genotype.PUBLISHED.values()):
        return text
    if "(" in text or text.startswith("{"):
        return ""
    path = pathlib.Path(text).resolve()
    if path.name == "genotype.json":
        path = path.parent
    return path.name if path.is_dir() else path.stem


if __name__ == "__main__":
    ending.finish(lambda: main(sys.argv[1:]))
