"""Reads, checks, writes and explains a tree of msgspec Structs: one Struct a TOML table, one
field a knob. It knows no knob by name (`config` does), and needs neither numpy nor jax.
"""

import copy
import datetime
import difflib
import functools
import json
import math
import re
import textwrap
import tomllib
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

from darts_dist.errors import ConfigError

WIDTH = 110  # columns of the page of knobs
MOST = 2**31 - 1  # int32, as which numbers go to devices


@dataclass(frozen=True)
class Knob:
    """One key of the config: its dotted name, what it takes, its default and its meaning."""

    key: str
    wanted: str
    choices: tuple[str, ...]
    default: Any
    meaning: str


@functools.cache
def tables(struct: type) -> dict[str, str]:
    """Returns the tables (`data`, `network`, ...) below `struct` with the meaning of each."""
    return {
        field.name: (field.type.cls.__doc__ or "").strip()
        for field in inspect.type_info(struct).fields  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(field.type, inspect.StructType)
    }


@functools.cache
def knobs(struct: type, prefix: str = "") -> dict[str, Knob]:
    """Returns every knob below `struct` by its dotted key, in the order of the fields; those that
    are in no table first, as TOML has them.
    """
    found = {}
    fields = inspect.type_info(struct).fields  # pyright: ignore[reportAttributeAccessIssue]
    for field in sorted(fields, key=lambda one: isinstance(one.type, inspect.StructType)):
        if isinstance(field.type, inspect.StructType):
            found |= knobs(field.type.cls, f"{prefix}{field.name}.")
            continue
        kind, notes, extra = field.type, {}, {}
        if isinstance(kind, inspect.Metadata):
            kind, notes, extra = kind.type, kind.extra_json_schema or {}, kind.extra or {}
        wanted = extra.get("wanted") or _wanted(kind)
        item = getattr(kind, "item_type", kind)
        values = item.values if isinstance(item, inspect.LiteralType) else ()
        choices = tuple(str(value) for value in values)
        meaning = notes.get("description", "")
        key = prefix + field.name
        found[key] = Knob(key, wanted, choices, field.default, meaning)
    return found


def _wanted(kind: Any) -> str:
    match kind:
        case inspect.Metadata():
            return _wanted(kind.type)
        case inspect.BoolType():
            return "true | false"
        case inspect.IntType() | inspect.FloatType():
            noun = "whole number" if isinstance(kind, inspect.IntType) else "number"
            limits = (("> ", kind.gt), (">= ", kind.ge), ("< ", kind.lt), ("<= ", kind.le))
            parts = [f"{sign}{limit}" for sign, limit in limits if limit is not None]
            return " ".join([noun, " and ".join(parts)]).strip()
        case inspect.LiteralType():
            return " | ".join(str(value) or '""' for value in kind.values)
        case inspect.VarTupleType():
            return f"list of: {_wanted(kind.item_type)}"
        case inspect.TupleType():
            return f"list of {len(kind.item_types)}: {_wanted(kind.item_types[0])}"
    return "text"


def nearest(name: str, known: Any) -> str:
    """Returns `; did you mean X?` for the known name nearest to `name`, or nothing."""
    close = difflib.get_close_matches(name, [str(one) for one in known if one], n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def parse(text: str, where: str) -> dict:
    """Returns the tables of a TOML text; `where` names it in the error, which tells the line."""
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where} is not a config: its lists are nested too deeply") from None


def override(struct: type, tree: dict, text: str) -> dict:
    """Returns `tree` with one `key.path=VALUE` set. VALUE is a TOML literal, or else a string."""
    key, equals, literal = text.partition("=")
    key = key.strip()
    if not (key and equals):
        raise ConfigError(f"{text!r} is not an override; write it as key.path=VALUE")
    known = [*knobs(struct), *tables(struct)]
    if key not in known:
        raise ConfigError(_unknown(struct, key))
    try:
        parsed = tomllib.loads(f"value = {literal}")
    except (ValueError, RecursionError):
        parsed = {}
    value = parsed["value"] if set(parsed) == {"value"} else literal.strip()
    if isinstance(value, datetime.date | datetime.time):
        value = literal.strip()
    tree = copy.deepcopy(tree)
    table, _, name = key.rpartition(".")
    holder = tree.setdefault(table, {}) if table else tree
    if not isinstance(holder, dict):
        raise ConfigError(_not_a_table(table, holder))
    holder[name] = value
    return tree


def convert(struct: type, tree: dict) -> Any:
    """Returns the Struct of a tree of tables, or raises a ConfigError that names the key."""
    for key, value in _leaves(struct, tree):
        for one in value if isinstance(value, list) else [value]:
            if wanted := _unfit(one):
                raise ConfigError(f"{key} = {literal(value)}; wanted {wanted}")
    try:
        return msgspec.convert(tree, struct)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(struct, tree, str(error))) from None


def _unfit(value: Any) -> str:
    """Returns what is wanted instead of a value that no knob can have, or nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return "finite numbers"
    if isinstance(value, int) and abs(value) > MOST:
        return f"a whole number up to {MOST}"
    return "text without a NUL" if isinstance(value, str) and "\0" in value else ""


def _leaves(struct: type, tree: dict) -> list[tuple[str, Any]]:
    """Returns (dotted key, value) of each knob that `tree` sets; an unknown one is an error."""
    leaves = []
    for name, value in tree.items():
        if name not in tables(struct):
            leaves.append((name, value))
        elif isinstance(value, dict):
            leaves += [(f"{name}.{inner}", one) for inner, one in value.items()]
        else:
            raise ConfigError(_not_a_table(name, value))
    for key, value in leaves:
        if key not in knobs(struct):
            deeper = isinstance(value, dict) and len(value) > 0
            raise ConfigError(_unknown(struct, f"{key}.{next(iter(value))}" if deeper else key))
    return leaves


def _unknown(struct: type, key: str) -> str:
    """Returns the text for a key that is none: the nearest one, else those there are."""
    table, _, name = key.rpartition(".")
    inside = [one for one in knobs(struct) if table and one.startswith(f"{table}.")]
    elsewhere = [one for one in knobs(struct) if one.endswith(f".{name}")]
    if elsewhere:
        hint = f"; did you mean {elsewhere[0]}?"
    elif inside:
        hint = nearest(name, [one.rpartition(".")[2] for one in inside])
        hint = hint.replace("mean ", f"mean {table}.")
    else:
        hint = nearest(key, [*knobs(struct), *tables(struct)])
    listed = ", ".join(inside or [f"{one}.*" for one in tables(struct)])
    return f"{key} is not a key{hint or f'; there are {listed}'}"


def _not_a_table(name: str, value: Any) -> str:
    return f"{name} = {literal(value)}; wanted a table: [{name}], or {name}.KEY = VALUE"


def _explain(struct: type, tree: dict, error: str) -> str:
    """Returns the text for a ValidationError: which key, what was found, what is wanted."""
    path = re.search(r"at `\$\.([\w.]+)(?:\[(\d+)\])?`", error)
    knob = knobs(struct).get(path[1]) if path else None
    if path is None or knob is None:
        return error
    value: Any = tree
    for name in knob.key.split("."):
        value = value[name]
    one = value[int(path[2])] if path[2] else value
    hint = nearest(one, knob.choices) if isinstance(one, str) else ""
    return f"{knob.key} = {literal(value)}; wanted {knob.wanted}{hint}"


def literal(value: Any) -> str:
    """Returns `value` as a TOML literal that parses back to an equal value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(literal(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {literal(one)}' for name, one in value.items())}}}"
    return repr(value) if isinstance(value, int | float) else str(value)


def flat(struct: Any) -> dict[str, Any]:
    """Returns the value of every knob of a Struct by dotted key, in the order of `knobs`."""
    values = {}
    fields = {name: getattr(struct, name) for name in struct.__struct_fields__}
    for name, value in sorted(fields.items(), key=lambda one: isinstance(one[1], msgspec.Struct)):
        if isinstance(value, msgspec.Struct):
            values |= {f"{name}.{inner}": one for inner, one in flat(value).items()}
        else:
            values[name] = value
    return values


def dump(struct: Any) -> str:
    """Returns the TOML text of a Struct; `convert(parse(...))` of it is an equal Struct."""
    lines, table = [], ""
    for key, value in flat(struct).items():
        head, _, name = key.rpartition(".")
        if head != table:
            lines += ["", f"[{head}]"]
            table = head
        lines.append(f"{name} = {literal(value)}")
    return "\n".join(lines) + "\n"


def describe(struct: type) -> str:
    """Returns a page with every knob: default, what it takes and its meaning, table by table."""
    lines, table = [], ""
    for key, knob in knobs(struct).items():
        head = key.rpartition(".")[0]
        if head != table:
            lines += ["", f"{head}: {tables(struct)[head]}"]
            table = head
        start = f"  {key} = {literal(knob.default)}"
        if len(start) > 46:
            lines += textwrap.wrap(start, WIDTH, subsequent_indent="    ")
            start = ""
        indent = " " * 47
        lines += textwrap.wrap(f"{start:<46} {knob.wanted}", WIDTH, subsequent_indent=indent)
        lines += textwrap.wrap(indent + knob.meaning, WIDTH, subsequent_indent=indent)
    return "\n".join(lines).strip("\n")
