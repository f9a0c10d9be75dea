"""Parser of optimised HLO, the text of a compiled program (`executable.as_text()`).

Place: layer 0, under `hlo`, which says what the instructions come to. What it cannot read is a
ValueError.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    shape: type of the result, as spelled.  given: between the brackets.  attributes: what follows,
    strings emptied.  called: attribute -> names of computations.  trips: times a loop goes round,
    None if unknown.
    """

    name: str
    shape: str
    opcode: str
    given: str
    attributes: str
    called: Mapping[str, tuple[str, ...]]
    trips: int | None

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the instructions whose results it takes."""
        return tuple(_NAME.findall(self.given))

    @property
    def rounds(self) -> int:
        """How often it runs what it calls; once where that is not known."""
        return 1 if self.trips is None else self.trips

    @property
    def kind(self) -> str:
        """The opcode; of an instruction in two halves, what it starts."""
        return self.opcode.removesuffix("-start")


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program: its computations by name, and how many devices run it."""

    entry: str
    computations: Mapping[str, Sequence[Instruction]]
    devices: int

    def walk(self, name: str, times: int = 1) -> Iterator[tuple[Instruction, int]]:
        """Yields every instruction of a computation and of all that it calls, and how often it
        runs: once in a branch, and in a loop of unknown length.
        """
        for one in self.computations[name]:
            yield one, times
            for inner in itertools.chain(*one.called.values()):
                yield from self.walk(inner, times * one.rounds)


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_HEAD = re.compile(r"(ENTRY )?%([\w.-]+) (?:\(.*\) -> .* )?\{$")
_LEFT = re.compile(r"\s+(?:ROOT )?%([\w.-]+) = ")
_OPCODE = re.compile(r" ([a-z][\w-]*)\(")
_NAME = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(r"([\w-]+)=(\{%[^}]*\}|%[\w.-]+)")
_TRIPS = re.compile(r'known_trip_count\\?":\{\\?"n\\?":\\?"(\d+)')


@functools.lru_cache(maxsize=1)  # one text is asked for kernels, bytes and collectives in turn
def parse(text: str) -> Module:
    """Returns the computations of a program's text."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("HloModule "):
        raise ValueError("this is no text of a compiled program: it does not begin with HloModule")
    sizes = dict(re.findall(r"\b(num_partitions|replica_count)=(\d+)", lines[0]))
    partitions, replicas = (int(sizes.get(n, 1)) for n in ("num_partitions", "replica_count"))
    if partitions > 1 and replicas > 1:
        raise ValueError(f"{replicas} replicas of {partitions} partitions: groups are ambiguous")
    computations, entry, inside, called = {}, "", None, set()
    for line in lines[1:]:
        if inside is None:
            if head := _HEAD.match(line):
                inside = computations[head[2]] = []
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            inside = None
        elif line.strip():
            inside.append(_instruction(line))
            called.update(*inside[-1].called.values())
    if missing := {entry, *called} - set(computations):
        raise ValueError(f"computations that are called and not there: {sorted(missing)}")
    for inside in computations.values():
        for at, one in enumerate(inside):
            if one.kind == "while" and one.trips is None:
                condition, body = (
                    computations[one.called[part][0]] for part in ("condition", "body")
                )
                inside[at] = dataclasses.replace(one, trips=_trips(one, inside, condition, body))
    return Module(entry, computations, partitions * replicas)


def _instruction(line: str) -> Instruction:
    bare = _STRING.sub('""', line)
    left = _LEFT.match(bare)
    if left:
        rest = bare[left.end() :]  # shape opcode(operands), attributes
        end = _closing(rest, 0) if rest.startswith("(") else rest.find(" ")
        if opcode := _OPCODE.match(rest, end):
            after = _closing(rest, opcode.end() - 1)
            given, attributes = rest[opcode.end() : after - 1], rest[after:]
            called = {
                name: tuple(_NAME.findall(names))
                for name, names in _CALLED.findall(attributes)
                if name != "control-predecessors"
            }
            trips = next((int(n) for n in _TRIPS.findall(line)), None)
            return Instruction(left[1], rest[:end], opcode[1], given, attributes, called, trips)
    raise ValueError(f"not an instruction of HLO: {line.strip()[:200]}")


def _closing(text: str, start: int) -> int:
    """Position after the bracket that closes the one at `start`."""
    depth = 0
    for bracket in re.compile(r"[()]").finditer(text, start):
        depth += 1 if bracket[0] == "(" else -1
        if not depth:
            return bracket.end()
    raise ValueError(f"a bracket is not closed: {text[start : start + 200]}")


# Loops whose trips the text does not tell.

_Known = dict[str, Instruction]
_SAME = ("bitcast", "copy", "copy-done")  # what these give is what they take


def _trips(loop: Instruction, around, condition, body) -> int | None:
    """Times that a loop goes round which counts up from a constant until it is not below another;
    None for any other loop.

    around, condition, body: instructions of the computations; the loop is in the first.
    """
    outer, tested, moved = ({one.name: one for one in part} for part in (around, condition, body))
    test, following = condition[-1], body[-1]
    if test.kind != "compare" or "direction=LT" not in test.attributes:
        return None
    counter, limit = (_origin(name, tested) for name in test.operands)
    at = _index(counter)
    before = _origin(loop.operands[0], outer)
    if at is None or before.kind != "tuple" or following.kind != "tuple":
        return None
    step = _origin(following.operands[at], moved)
    if step.kind != "add":
        return None
    added = [_origin(name, moved) for name in step.operands]
    steps = [_number(one) for one in added if _index(one) != at]
    first, last = _number(_origin(before.operands[at], outer)), _number(limit)
    if first is None or last is None or len(steps) != 1 or not steps[0]:
        return None
    return max(-(-(last - first) // steps[0]), 0)


def _origin(name: str, here: _Known) -> Instruction:
    one = here[name]
    while one.kind in _SAME:
        one = here[one.operands[0]]
    return one


def _index(one: Instruction) -> int | None:
    """The place in a tuple of what an instruction takes out of it."""
    found = re.search(r"\bindex=(\d+)", one.attributes)
    return int(found[1]) if one.kind == "get-tuple-element" and found else None


def _number(one: Instruction) -> int | None:
    """The whole number that an instruction is."""
    whole = one.kind == "constant" and re.fullmatch(r"-?\d+", one.given)
    return int(one.given) if whole else None
