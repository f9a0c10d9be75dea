"""Reads the pickles of data sets without trusting them.

A pickle is a program for a small stack machine. This module is that machine with only the opcodes
that build values: numbers, bytes, text, lists, tuples, dicts and numpy arrays of plain numbers. It
never imports and never calls what a file names: the four names by which numpy spells an array are
known here as marks, and everything else ends in a DataError. It does not use the standard
`pickle`, whose memo a damaged file can grow without bound.
"""

import math
import struct
from typing import ClassVar

import numpy as np

from darts_dist.errors import DataError

MAX_AXES = 8
MAX_ENTRIES = 2**40  # also of an empty array, axes of length 0 taken as 1
MAX_INTEGER_BYTES = 16

NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
}
NUMBER_TYPES = {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"}


def loads(data, name):
    """Returns the value that a pickle of protocol 2 to 4 builds.

    data: bytes.  name: what errors call the file.  Byte strings of Python 2 come back as bytes.
    Raises DataError for anything broken, unfinished, or of another kind than data.
    """
    return Machine(data, name).run()


class Mark:
    """One of the names of numpy; only `reduce` and `build` know what to do with it."""

    def __init__(self, name):
        self.name = name


class _NumberType:
    """A dtype under construction: its letters, then its byte order."""

    def __init__(self, code):
        self.code = code
        self.order = "="


class Inner(tuple):
    """A tuple that holds marks or number types: arguments for numpy, never a value."""


class Machine:
    """The stack machine, at a place of the data; `run` builds one value and moves on behind it.

    data: anything that slices to bytes.  Subclasses know other names and opcodes.
    """

    parts = (Mark, _NumberType, Inner)
    opcodes: ClassVar[dict] = {}

    def __init__(self, data, name, at=0):
        self.data = data
        self.name = name
        self.at = at
        self.stack = []
        self.below = []  # the stacks under the open marks
        self.memo = {}

    def error(self, found):
        return DataError(
            f"{self.name}: broken or unsafe pickle, {found} (near byte {self.at}); "
            "wanted only arrays, lists, dicts, bytes, text and numbers; download the file again "
            "from its official source"
        )

    def run(self):
        while True:
            code = self.take(1)
            if code == b".":
                value = self.value(self.pop())
                if self.stack or self.below:
                    raise self.error("it ends with values left over")
                return value
            step = self.opcodes.get(code)
            if step is None:
                raise self.error(f"opcode {code!r}")
            step(self)

    # Reading and stack.

    def take(self, count):
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise self.error(f"{count} bytes wanted, {len(self.data) - self.at} are left")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self):
        end = self.data.find(b"\n", self.at, self.at + 200)
        if end < 0:
            raise self.error("a name without an end")
        text = self.take(end - self.at)
        self.at += 1
        return self.text(text)

    def text(self, data):
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise self.error("text that is not UTF-8") from None

    def push(self, value):
        self.stack.append(value)

    def pop(self):
        if not self.stack:
            raise self.error("an empty stack")
        return self.stack.pop()

    def top(self, kind):
        if not self.stack or type(self.stack[-1]) is not kind:
            raise self.error(f"no {kind.__name__} where one is filled")
        return self.stack[-1]

    def open(self):
        self.below.append(self.stack)
        self.stack = []

    def close(self):
        if not self.below:
            raise self.error("a missing mark")
        items, self.stack = self.stack, self.below.pop()
        return items

    def value(self, item):
        if isinstance(item, self.parts):
            raise self.error("a part of an array as a value")
        return item

    def peek(self):
        self.push(self.pop())
        return self.stack[-1]

    # Containers.

    def tuple_of(self, items):
        return Inner(items) if any(isinstance(item, self.parts) for item in items) else tuple(items)

    def push_tuple(self, count):
        items = [self.pop() for _ in range(count)]
        self.push(self.tuple_of(items[::-1]))

    def append(self, items):
        self.top(list).extend([self.value(item) for item in items])

    def set_items(self, items):
        if len(items) % 2:
            raise self.error("a key without a value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Tuples are no keys: the hash of nested ones can take for ever.
            if type(key) not in (bytes, str, int):
                raise self.error("a key that is neither text nor number")
            target[key] = self.value(value)

    def push_dict(self, items):
        self.push({})
        self.set_items(items)

    def push_integer(self, size):
        if size > MAX_INTEGER_BYTES:
            raise self.error(f"an integer of {size} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def get(self, index):
        if index not in self.memo:
            raise self.error(f"an unknown reference {index}")
        self.push(self.memo[index])

    def put(self, index):
        self.memo[index] = self.peek()

    # Arrays, as numpy spells them: dtype(code, 0, 1) and its state; _reconstruct(ndarray, (0,),
    # "b") and its state (version, shape, dtype, Fortran order, bytes).

    def push_name(self, module, name):
        known = NAMES.get((module, name)) if type(module) is type(name) is str else None
        if known is None:
            raise self.error(f"the name {str(module)[:80]!r} {str(name)[:80]!r}")
        self.push(Mark(known))

    def reduce(self):
        arguments, called = self.pop(), self.pop()
        name = called.name if type(called) is Mark else ""
        if name == "dtype" and type(arguments) is tuple and len(arguments) == 3:
            code = _as_text(arguments[0])
            if code not in NUMBER_TYPES:
                raise self.error("an array of something else than numbers")
            self.push(_NumberType(code))
        elif name == "reconstruct" and type(arguments) is Inner and len(arguments) == 3:
            kind = arguments[0]
            if type(kind) is not Mark or kind.name != "ndarray":
                raise self.error("an array of an unknown class")
            self.push(np.empty(0, np.int8))
        else:
            raise self.error("a call")

    def build(self):
        state, target = self.pop(), self.peek()
        if type(target) is _NumberType:
            target.order = self.byte_order(state)
        elif type(target) is np.ndarray:
            target.__setstate__(self.array_state(state))  # pyright: ignore[reportArgumentType]
        else:
            raise self.error("a state for something that has none")

    def byte_order(self, state):
        order = _as_text(state[1]) if type(state) is tuple and len(state) in (8, 9) else ""
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise self.error("a dtype that is not one of plain numbers")
        return order

    def array_state(self, state):
        if type(state) is not Inner or len(state) != 5:
            raise self.error("an array state that is not one")
        _, shape, kind, fortran, data = state
        if type(shape) is not tuple or len(shape) > MAX_AXES:
            raise self.error("an array shape that is not one")
        if any(type(length) is not int or length < 0 for length in shape):
            raise self.error("an array shape that is not one")
        if math.prod(max(length, 1) for length in shape) > MAX_ENTRIES:
            raise self.error("an array shape beyond all data sets")
        if type(kind) is not _NumberType or type(fortran) not in (bool, int):
            raise self.error("an array state that is not one")
        dtype = np.dtype(kind.code).newbyteorder(kind.order)  # pyright: ignore[reportArgumentType]
        wanted = math.prod(shape) * dtype.itemsize
        if type(data) is not bytes or len(data) != wanted:
            found = f"{len(data)} bytes" if type(data) is bytes else "no bytes"
            raise self.error(f"an array of {wanted} bytes with {found}")
        return (1, shape, dtype, bool(fortran), data)


def _as_text(value):
    return value.decode("latin-1") if type(value) is bytes else value if type(value) is str else ""


Machine.opcodes = {
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # frame
    b"(": Machine.open,
    b"0": Machine.pop,
    b"1": Machine.close,
    b"2": lambda m: m.push(m.peek()),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"\x8a": lambda m: m.push_integer(m.number("<B")),
    b"G": lambda m: m.push(m.number(">d")),
    b"U": lambda m: m.push(m.take(m.number("<B"))),
    b"T": lambda m: m.push(m.take(m.number("<i"))),
    b"C": lambda m: m.push(m.take(m.number("<B"))),
    b"B": lambda m: m.push(m.take(m.number("<I"))),
    b"\x8e": lambda m: m.push(m.take(m.number("<Q"))),
    b"X": lambda m: m.push(m.text(m.take(m.number("<I")))),
    b"\x8c": lambda m: m.push(m.text(m.take(m.number("<B")))),
    b"]": lambda m: m.push([]),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.close()),
    b"l": lambda m: m.push([m.value(item) for item in m.close()]),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(m.tuple_of(m.close())),
    b"\x85": lambda m: m.push_tuple(1),
    b"\x86": lambda m: m.push_tuple(2),
    b"\x87": lambda m: m.push_tuple(3),
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.close()),
    b"d": lambda m: m.push_dict(m.close()),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"c": lambda m: m.push_name(m.line(), m.line()),
    b"\x93": lambda m: m.push_name(*[m.pop(), m.pop()][::-1]),
    b"R": Machine.reduce,
    b"b": Machine.build,
}
