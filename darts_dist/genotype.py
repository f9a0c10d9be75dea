"""Genotypes: the cells that a search ends with, as frozen values, and their JSON and text forms.

Place: layer 0, standard library only. It says what a genotype may be and reads and writes it;
how one is derived from alphas is `spaces.derive`, how one becomes a network is `nets`. Text is
parsed, never evaluated.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from darts_dist.errors import GenotypeError

CNN_OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_7x1_1x7",
)
RNN_OPERATIONS = ("tanh", "relu", "sigmoid", "identity")
RANGE_LIMIT = 1000  # the longest range(...) that is written out: no real cell comes near it

Entries = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class CnnGenotype:
    """A normal and a reduction cell; entries 2i and 2i+1 are the two inputs of node i.

    An entry is (operation, state): states 0 and 1 are the cell's inputs, state i+2 is node i. The
    cell's output joins the states of `*_concat` on channels. Raises GenotypeError for a cell that
    cannot be built.
    """

    normal: Entries
    normal_concat: tuple[int, ...]
    reduce: Entries
    reduce_concat: tuple[int, ...]
    space: ClassVar[str] = "cnn"

    def __post_init__(self):
        """Checks the cells and makes tuples of lists."""
        for cell, lowest in (("normal", 0), ("reduce", 2)):
            entries = _entries(cell, getattr(self, cell), CNN_OPERATIONS, a_node=2)
            object.__setattr__(self, cell, entries)
            name = f"{cell}_concat"
            concat = _concat(name, getattr(self, name), lowest, last=len(entries) // 2 + 1)
            object.__setattr__(self, name, concat)


@dataclasses.dataclass(frozen=True)
class RnnGenotype:
    """A recurrent cell; entry i is (activation, state) and makes state i+1.

    State 0 is made from the cell's inputs. The output is the mean of the states of `concat`. Raises
    GenotypeError for a cell that cannot be built.
    """

    recurrent: Entries
    concat: tuple[int, ...]
    space: ClassVar[str] = "rnn"

    def __post_init__(self):
        """Checks the cells and makes tuples of lists."""
        entries = _entries("recurrent", self.recurrent, RNN_OPERATIONS, a_node=1)
        object.__setattr__(self, "recurrent", entries)
        object.__setattr__(self, "concat", _concat("concat", self.concat, 0, last=len(entries)))


Genotype = CnnGenotype | RnnGenotype
_KINDS: dict[str, type[CnnGenotype] | type[RnnGenotype]] = {"cnn": CnnGenotype, "rnn": RnnGenotype}


def load(source: str, space: str = "") -> Genotype:
    """Returns the genotype that `source` means: JSON, text, a published name, a file or a run.

    space: "cnn" or "rnn" where only one will do; "" takes either, and looks a name up among the cnn
    ones first. A file holds either form; of a search run's folder its genotype.json is read.
    """
    text = source.strip()
    if text.startswith("{") or re.match(r"(\w+\s*=\s*)?Genotype\s*\(", text):
        return parse(text, space)
    for table in [PUBLISHED[space]] if space else PUBLISHED.values():
        if text in table:
            return table[text]
    path = pathlib.Path(text) if text and "\0" not in text else None
    try:
        if path is not None and path.is_dir():
            path = path / "genotype.json"
            if not path.exists():
                raise GenotypeError(
                    f"{text} has no genotype.json; wanted the folder of a finished search: finish "
                    f"it, or derive a cell of its last epoch: tools/derive_genotype.py {text}"
                )
        if path is not None and path.exists():
            return parse(path.read_text(encoding="utf-8"), space, origin=f"{path}: ")
    except (OSError, UnicodeDecodeError) as error:
        raise GenotypeError(f"{source}: the genotype file cannot be read: {error}") from error
    names = list(PUBLISHED[space]) if space else sorted(set().union(*PUBLISHED.values()))
    kinds = {"cnn": "convolutional", "rnn": "recurrent"}
    for other, table in PUBLISHED.items():
        if text in table:
            raise GenotypeError(
                f"genotype {source!r} is neither a {kinds[space]} cell nor an existing file, but a "
                f"{kinds[other]} cell; published: {', '.join(names)}"
            )
    raise GenotypeError(
        f"genotype {source!r} is neither a published name nor an existing file"
        f"{_nearest(text, names)}; published: {', '.join(names)}"
    )


def parse(text: str, space: str = "", origin: str = "") -> Genotype:
    """Returns the genotype written in `text`: JSON or the original's `Genotype(normal=...)`.

    origin: put before the text of an error, to name the file.
    """
    try:
        if text.lstrip().startswith("{"):
            try:
                tree = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise GenotypeError(f"the genotype is not valid JSON: {error}") from error
        else:
            tree = _read_call(text)
        return from_dict(tree, space)
    except GenotypeError as error:
        raise GenotypeError(f"{origin}{error}") from error


def from_dict(tree: Mapping[str, Any], space: str = "") -> Genotype:
    """Returns the genotype of a decoded JSON object; the key "space" may be left out."""
    if not isinstance(tree, Mapping):
        raise GenotypeError(f"a genotype is an object with named cells, found {_short(tree)}")
    fields = dict(tree)
    said = fields.pop("space", None) or ("rnn" if "recurrent" in fields else "cnn")
    if not isinstance(said, str) or said not in _KINDS:
        raise GenotypeError(f"genotype space {_short(said)} is unknown; use 'cnn' or 'rnn'")
    if space and said != space:
        raise GenotypeError(f"the genotype is of space {said!r}, and this run needs {space!r}")
    kind = _KINDS[said]
    wanted = [field.name for field in dataclasses.fields(kind)]
    for name in fields:
        if name not in wanted:
            raise GenotypeError(
                f"genotype has an unknown field {name!r}; {said} has {', '.join(wanted)}"
            )
    missing = [name for name in wanted if name not in fields]
    if missing:
        raise GenotypeError(f"genotype lacks {', '.join(missing)}; {said} has {', '.join(wanted)}")
    return kind(**fields)


def to_dict(genotype: Genotype) -> dict[str, Any]:
    """Returns the JSON object of a genotype: "space" first, lists in the place of tuples."""
    tree: dict[str, Any] = {"space": genotype.space}
    for field in dataclasses.fields(genotype):
        value = getattr(genotype, field.name)
        tree[field.name] = [list(item) if isinstance(item, tuple) else item for item in value]
    return tree


def to_json(genotype: Genotype) -> str:
    """Returns the genotype as JSON on one line."""
    return json.dumps(to_dict(genotype))


def to_text(genotype: Genotype) -> str:
    """Returns the original's text form, `Genotype(normal=[...], normal_concat=range(2, 6), ...)`"""
    parts = []
    for field in dataclasses.fields(genotype):
        value = getattr(genotype, field.name)
        if field.name.endswith("concat") and value == tuple(range(value[0], value[-1] + 1)):
            parts.append(f"{field.name}=range({value[0]}, {value[-1] + 1})")
        else:
            parts.append(f"{field.name}={list(value)!r}")
    return f"Genotype({', '.join(parts)})"


def _entries(cell, value, operations, a_node) -> Entries:
    """Returns a cell's entries as tuples; `a_node` entries make a node, 2 of cnn and 1 of rnn."""
    if not isinstance(value, (list, tuple)) or not value:
        raise GenotypeError(f"{cell} is {_short(value)}; wanted a list of (operation, state) pairs")
    if len(value) % a_node:
        raise GenotypeError(f"{cell} has {len(value)} entries, an odd number; every node takes two")
    pairs = []
    for place, pair in enumerate(value):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise GenotypeError(
                f"{cell}[{place}] is {_short(pair)}; wanted an (operation, state) pair"
            )
        operation, state = pair
        if operation not in operations:
            raise GenotypeError(
                f"{cell}[{place}] names the unknown operation {_short(operation)}"
                f"{_nearest(operation, operations)}; known: {', '.join(operations)}"
            )
        last = place // a_node + a_node - 1
        if not _is_index(state) or not 0 <= state <= last:
            raise GenotypeError(
                f"{cell}[{place}] takes state {_short(state)}, which does not exist yet at node "
                f"{place // a_node}; use 0 to {last}"
            )
        pairs.append((str(operation), int(state)))
    return tuple(pairs)


def _concat(name, value, lowest, last) -> tuple[int, ...]:
    """Returns the states that make a cell's output, checked to exist."""
    if isinstance(value, range):
        value = list(value[: RANGE_LIMIT + 1])
    if not isinstance(value, (list, tuple)) or not value:
        raise GenotypeError(
            f"{name} is {_short(value)}; wanted at least one state of {lowest} to {last}"
        )
    for state in value:
        if not _is_index(state) or not lowest <= state <= last:
            raise GenotypeError(
                f"{name} has state {_short(state)}; use states of {lowest} to {last}"
            )
    return tuple(int(state) for state in value)


def _is_index(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_call(text: str) -> dict[str, Any]:
    """Returns the named arguments of `Genotype(...)`, read from the syntax tree alone."""
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GenotypeError(f"the genotype is neither JSON nor Genotype(...): {error}") from error
    call = body[0].value if len(body) == 1 and isinstance(body[0], (ast.Expr, ast.Assign)) else None
    if not isinstance(call, ast.Call) or not _called(call, "Genotype") or call.args:
        raise GenotypeError(
            f"wanted one Genotype(name=..., ...) with named fields, found {_short(text)}"
        )
    fields: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in fields:
            raise GenotypeError("Genotype(...) takes each of its named fields once")
        fields[keyword.arg] = _read_value(keyword.value)
    return fields


def _read_value(node: ast.AST) -> Any:
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_read_value(item) for item in node.elts]
    if isinstance(node, ast.Constant) and (isinstance(node.value, str) or _is_index(node.value)):
        return node.value
    if isinstance(node, ast.Call) and _called(node, "range") and not node.keywords:
        bounds = [_read_value(item) for item in node.args]
        if 1 <= len(bounds) <= 2 and all(_is_index(bound) for bound in bounds):
            return range(*bounds)
    raise GenotypeError(
        f"Genotype(...) holds lists, tuples, strings, whole numbers and range(a, b); found "
        f"{_short(ast.unparse(node))}"
    )


def _called(call: ast.Call, name: str) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == name


def _nearest(word: Any, names) -> str:
    close = difflib.get_close_matches(word, names, n=1) if isinstance(word, str) else []
    return f" (did you mean {close[0]!r}?)" if close else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_SHORT = {
    "mp": "max_pool_3x3",
    "ap": "avg_pool_3x3",
    "sk": "skip_connect",
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "s7": "sep_conv_7x7",
    "d3": "dil_conv_3x3",
    "c71": "conv_7x1_1x7",
}
# name | entries of a cell, operation:state | states that make the output; cnn: normal, then reduce
# Sources: arXiv 1806.09055 (DARTS), 1707.07012 (NASNet), 1802.01548 (AmoebaNet), 1802.03268 (ENAS)
_CNN = """
NASNet    | s5:1 s3:0 s5:0 s3:0 ap:1 sk:0 ap:0 ap:0 s3:1 sk:1  | 2 3 4 5 6
          | s5:1 s7:0 mp:1 s7:0 ap:1 s5:0 sk:3 ap:2 s3:2 mp:1  | 4 5 6
AmoebaNet | ap:0 mp:1 s3:0 s5:2 s3:0 ap:3 s3:1 sk:1 sk:0 ap:1  | 4 5 6
          | ap:0 s3:1 mp:0 s7:2 s7:0 ap:1 mp:0 mp:1 c71:0 s3:5 | 3 4 6
DARTS_V1  | s3:1 s3:0 sk:0 s3:1 sk:0 s3:1 s3:0 sk:2            | 2 3 4 5
          | mp:0 mp:1 sk:2 mp:0 mp:0 sk:2 sk:2 ap:0            | 2 3 4 5
DARTS_V2  | s3:0 s3:1 s3:0 s3:1 s3:1 sk:0 sk:0 d3:2            | 2 3 4 5
          | mp:0 mp:1 sk:2 mp:1 mp:0 sk:2 sk:2 mp:1            | 2 3 4 5
"""
_RNN = """
ENAS | tanh:0 tanh:1 relu:1 tanh:3 tanh:3 relu:3 relu:4 relu:7 relu:8 relu:8 relu:8 | 2 5 6 9 10 11
DARTS_V1 | relu:0 relu:1 tanh:2 relu:3 relu:4 identity:1 relu:5 relu:1 | 1 2 3 4 5 6 7 8
DARTS_V2 | sigmoid:0 relu:1 relu:1 identity:1 tanh:2 sigmoid:5 tanh:3 relu:5 | 1 2 3 4 5 6 7 8
"""


def _read_table(table: str, kind, cells: int) -> dict[str, Genotype]:
    rows = [[column.split() for column in line.split("|")] for line in table.strip().splitlines()]
    found = {}
    for first in range(0, len(rows), cells):
        values = []
        for _, entries, concat in rows[first : first + cells]:
            pairs = (entry.split(":") for entry in entries)
            values.append([(_SHORT.get(name, name), int(state)) for name, state in pairs])
            values.append([int(state) for state in concat])
        found[rows[first][0][0]] = kind(*values)
    return {**found, "DARTS": found["DARTS_V2"]}


PUBLISHED: dict[str, dict[str, Genotype]] = {
    "cnn": _read_table(_CNN, CnnGenotype, cells=2),
    "rnn": _read_table(_RNN, RnnGenotype, cells=1),
}
