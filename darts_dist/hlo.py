"""Reader of optimised HLO, the text of a compiled program (`executable.as_text()`): which kernels
it runs, and which devices its collectives join.

Place: layer 0, over `hlotext`; text in, numbers out. It knows neither jax nor the programs. What it
cannot read is a ValueError: nothing that is not understood counts as nothing.
"""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Mapping

import numpy as np

from darts_dist.hlotext import Instruction, parse

Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Kernels:
    """How many kernels run by opcode; how many there are, each once; and the loops of unknown
    length, whose kernels run once in `counts`.
    """

    counts: Mapping[str, int]
    compiled: int
    unknown_loops: tuple[str, ...]

    @property
    def total(self) -> int:
        """All that run."""
        return sum(self.counts.values())


@dataclasses.dataclass(frozen=True)
class Collective:
    """An instruction in which devices wait for each other.

    elements, bytes: of its result on one device.  groups: positions of devices among those of the
    program, so in `mesh.devices.flat`; of a permutation each (source, target).  times: how often
    it runs.
    """

    kind: str
    elements: int
    bytes: int
    groups: Groups
    times: int


# Kernels.

_CONTROL = ("while", "call", "async", "conditional")
_FREE = re.compile(
    "add-dependency|after-all|bitcast|constant|domain|get-tuple-element|opt-barrier|parameter|"
    "partition-id|replica-id|tuple|.*-done|.*-update"
)


def kernels(text: str) -> Kernels:
    """Returns the kernels that one run of a program starts, by opcode.

    A kernel is an instruction that runs by itself: a fusion is one, whatever is in it, a lone dot
    too.  A loop counts its body as often as it goes round, where XLA says so (it then runs no
    condition).  Of branches the longest counts.
    """
    module, compiled, unknown = parse(text), [], []

    @functools.cache  # so that `count` sees each instruction once
    def inside(name: str) -> collections.Counter:
        return sum(map(count, module.computations[name]), collections.Counter())

    def count(one: Instruction) -> collections.Counter:
        if one.kind not in _CONTROL:
            own = [] if _FREE.fullmatch(one.kind) else [one.kind]
            compiled.extend(own)
            return collections.Counter(own)
        parts = {name: inside(name) for name in itertools.chain(*one.called.values())}
        if one.kind == "conditional":
            return max(parts.values(), key=collections.Counter.total)
        if one.kind == "while" and one.trips is not None:
            body = parts[one.called["body"][0]]
            return collections.Counter({kind: n * one.trips for kind, n in body.items()})
        if one.kind == "while":
            unknown.append(one.name)
        return sum(parts.values(), collections.Counter())

    counts = inside(module.entry)
    return Kernels(dict(counts), len(compiled), tuple(unknown))


def written(text: str, *, rounds: bool = True) -> int:
    """Returns the bytes that all kernels of one run of a program write: their results, and of a
    result that is changed in place what is put into it.

    Loops and branches count as in `kernels`, conditions of loops with them; workspace, which a
    call returns beside its result, does not.  rounds: False to count every loop once.
    """
    module = parse(text)

    def inside(name: str) -> int:
        here = {one.name: one for one in module.computations[name]}
        return sum(of_one(one, here) for one in here.values())

    def of_one(one: Instruction, here: Mapping[str, Instruction]) -> int:
        if one.kind in _CONTROL:
            of_all = max if one.kind == "conditional" else sum
            times = one.rounds if rounds else 1
            return times * of_all(map(inside, itertools.chain(*one.called.values())))
        if _FREE.fullmatch(one.kind):
            return 0
        if one.kind == "fusion" and "calls" in one.called:
            *_, root = fused = module.computations[one.called["calls"][0]]
            return _stored(root, {inner.name: inner for inner in fused})
        return _stored(one, here)

    return inside(module.entry)


def _stored(one: Instruction, here: Mapping[str, Instruction]) -> int:
    """Bytes of an instruction's result that are written; here: its computation, by name."""
    inner = [here[name] for name in one.operands if name in here]
    if one.kind == "tuple" and len(inner) == len(one.operands):
        return sum(_stored(each, here) for each in inner)
    if one.kind == "bitcast" and inner:
        return _stored(inner[0], here)
    if one.kind == "dynamic-update-slice" and len(one.operands) > 1 and one.operands[1] in here:
        return _size(here[one.operands[1]].shape)[1]
    shape = one.shape
    if one.kind == "custom-call" and shape.startswith("("):
        shape = _ELEMENT.findall(shape[1:-1])[0]
    return _size(shape)[1]


# Collectives.

_COLLECTIVE = re.compile(r"(all-|ragged-all-|collective-|reduce-scatter)(?!.*-(done|update)$)")
_ELEMENT = re.compile(r"\w+\[[^]]*\](?:\{[^}]*\})?|\((?:[^()]|\([^()]*\))*\)")
_SPELLED = re.compile(r"\b(?:replica_groups|source_target_pairs)=(.*?)(?=$|, (?!device_)[\w-]+=)")
_INTS = r"(\d+(?:,\d+)*)"
_ORDERED = rf"\[{_INTS}\](?:T\({_INTS}\))?"
_LISTS = re.compile(rf"\{{\{{{_INTS}\}}(,\{{{_INTS}\}})*\}}")
_IOTA = re.compile(rf"\[(\d+),(\d+)\]<={_ORDERED}")
_MESH = re.compile(rf"mesh\[([^\]]+)\](?:, device_ids=\((?:{_ORDERED}|{_INTS})\))? \{{([^}}]*)\}}")
_SIZE_OF_AXIS = re.compile(r"'?([\w.-]+?)'?=(\d+)")
_PART_OF_AXIS = re.compile(r"'?([\w.-]+?)'?(?::\((\d+)\)(\d+))?")


def collectives(text: str) -> list[Collective]:
    """Returns the collectives of a program in the order of its text, those within fusions too."""
    module, found = parse(text), []
    for one, times in module.walk(module.entry):
        if one.kind in ("send", "recv") and "is_host_transfer=true" not in one.attributes:
            raise ValueError(f"{one.name}: between which devices a {one.kind} goes is not read")
        if _COLLECTIVE.match(one.kind):
            shape = one.shape
            if one.opcode.endswith("-start") and one.kind != "all-reduce":
                shape = _ELEMENT.findall(shape[1:-1])[1]  # of (operands, results, ...)
            groups = _groups(one, module.devices)
            found.append(Collective(one.kind, *_size(shape), groups, times))
    return found


def axes_spanned(groups: Groups, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the axes along which members of one group differ, in a mesh {axis: size}."""
    sizes = tuple(mesh_shape.values())
    places = [np.unravel_index(np.array(group), sizes) for group in groups]
    return tuple(
        name for at, name in enumerate(mesh_shape) if any(np.ptp(place[at]) for place in places)
    )


def _size(shape: str) -> tuple[int, int]:
    """Elements and bytes of all arrays in a type."""
    elements, size = 0, 0
    for dtype, sides in re.findall(r"(\w+)\[([\d,<=]*)\]", shape):
        count = math.prod(map(int, re.findall(r"\d+", sides)))
        digits = re.search(r"\d+", dtype)  # none in pred, nor in token and opaque: no data
        bits = int(digits[0]) if digits else 8 * (dtype == "pred")
        elements, size = elements + count, size + -(-count * bits // 8)
    return elements, size


def _groups(one: Instruction, devices: int) -> Groups:
    """The groups of a collective, from any of their spellings."""
    spelled = _SPELLED.search(one.attributes)
    text = spelled[1] if spelled else "none"
    if text == "{}":
        groups = [range(devices)]
    elif _LISTS.fullmatch(text):  # {{0,1},{2,3}}
        groups = [_ints(group) for group in re.findall(_INTS, text)]
    elif match := _IOTA.fullmatch(text):  # [groups,size]<=[sides]T(order)
        groups = _counted(match[3], match[4]).reshape(int(match[1]), int(match[2]))
    elif match := _MESH.fullmatch(text):
        groups = _meshed(match)
    else:
        raise ValueError(f"{one.name}: groups of a spelling that is not read: {text[:200]}")
    by_replica = one.kind in ("all-reduce", "all-gather", "reduce-scatter")
    by_replica = by_replica and "use_global_device_ids=true" not in one.attributes
    if by_replica and "channel_id=" in one.attributes:  # members are replicas, with all partitions
        groups = [range(devices)]
    groups = tuple(tuple(int(member) for member in group) for group in groups)
    if any(member >= devices for group in groups for member in group):
        raise ValueError(f"{one.name}: more than the program's {devices} devices: {text[:200]}")
    return groups


def _ints(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _counted(sides: str, order: str | None) -> np.ndarray:
    """0, 1, 2 ... in an array of such sides, its axes then put in order."""
    places = np.arange(math.prod(_ints(sides))).reshape(_ints(sides))
    return places.transpose(_ints(order)) if order else places


def _meshed(match: re.Match) -> np.ndarray:
    """mesh[axis=size,...], device_ids=([sides]T(order)) {axis,...}: a group runs along the axes.

    An axis:(before)size is a digit of the place on the axis: it counts to `size`, and the digits
    before it to `before`.
    """
    sizes = {name: int(size) for name, size in _SIZE_OF_AXIS.findall(match[1])}
    whole = str(math.prod(sizes.values()))
    ids = np.array(_ints(match[4])) if match[4] else _counted(match[2] or whole, match[3])
    cuts = {name: {1, size} for name, size in sizes.items()}
    along = []
    for axis in filter(None, match[5].split(",")):
        part = _PART_OF_AXIS.fullmatch(axis)
        if not part or part[1] not in sizes:
            raise ValueError(f"{axis} is no axis of {match[0]}")
        first = int(part[2] or 1)
        last = first * int(part[3] or sizes[part[1]])
        cuts[part[1]] |= {first, last}
        along += [(part[1], first, last)] * (last > first)
    digits = [(name, *cut) for name in sizes for cut in itertools.pairwise(sorted(cuts[name]))]
    inner = [digits.index(digit) for digit in along]
    outer = [at for at in range(len(digits)) if at not in inner]
    grid = ids.reshape([last // first for _, first, last in digits]).transpose(outer + inner)
    return grid.reshape(-1, math.prod(last // first for _, first, last in along))
