"""Reads the pickles inside PyTorch's files without trusting them.

Place: layer 2, on the stack machine of `data.unpickle`: nothing is imported and nothing that a file
names is called. Of tensors it makes views of storages, which `torchfile` fills afterwards. What
else a file may name (classes of networks) becomes a `Record` where the caller lists it by name, and
ends in a DataError otherwise.
"""

import dataclasses
import math
import sys
from typing import Any

import numpy as np

from darts_dist.data.unpickle import Inner, Machine, Mark
from darts_dist.errors import DataError

MAX_AXES = 16
MAX_ENTRIES = 2**40  # of an empty tensor, axes of length 0 taken as 1
COPIES = 16  # tensors may show each byte of the file so often; more is an attack

WANTED = "wanted tensors and numbers alone, as torch.save(network.state_dict(), FILE) writes them"

# kind of storage -> (dtype on disk, dtype in memory); bfloat16 is the upper half of a float32
KINDS = {
    "Float": ("f4", "f4"),
    "Double": ("f8", "f8"),
    "Half": ("f2", "f2"),
    "BFloat16": ("u2", "f4"),
    "Long": ("i8", "i8"),
    "Int": ("i4", "i4"),
    "Short": ("i2", "i2"),
    "Char": ("i1", "i1"),
    "Byte": ("u1", "u1"),
    "Bool": ("?", "?"),
}
STORAGES = {f"{module}.{kind}Storage": kind for module in ("torch", "torch.cuda") for kind in KINDS}
CALLS = {
    "collections.OrderedDict": "dict",
    "torch.Size": "size",
    "torch._utils._rebuild_tensor": "tensor",
    "torch._utils._rebuild_tensor_v2": "tensor",
    "torch._utils._rebuild_parameter": "parameter",
    "torch.nn.parameter.Parameter": "parameter",
    "__builtin__.set": "set",
    "builtins.set": "set",
    "__builtin__.xrange": "range",
    "builtins.range": "range",
}


@dataclasses.dataclass(frozen=True)
class Class:
    """The name of a class or function that the caller listed; nothing is behind it."""

    name: str


@dataclasses.dataclass
class Record:
    """An object of a listed class, or what a listed function gave: only what the file says of it.

    arguments: of its making.  state: usually its attributes by name.
    """

    name: str
    arguments: tuple
    state: Any = None


class Storage:
    """A storage of `count` numbers; `values` is filled when the pickle has been read."""

    def __init__(self, kind: str, count: int) -> None:
        self.kind, self.count = kind, count
        stored, held = KINDS[kind]
        self.nbytes = count * np.dtype(stored).itemsize
        self.values = np.empty(count, held)

    def fill(self, data: bytes, order: str = "little") -> None:
        """Takes the numbers of `nbytes` bytes in a byte order, "little" or "big"."""
        stored = np.dtype(KINDS[self.kind][0]).newbyteorder("<" if order == "little" else ">")
        numbers = np.frombuffer(data, stored)
        if self.kind == "BFloat16":
            self.values.view("u4")[:] = numbers.astype("u4") << 16
        else:
            self.values[:] = numbers


class _View:
    """Numbers of a storage, from `start` on."""

    def __init__(self, values):
        self.values = values


class TorchMachine(Machine):
    """The machine for one pickle of a file of `size` bytes; `storages`, by key, are to be filled.

    records: names, such as "model.RNNModel", that become a `Record`.
    """

    parts = (Mark, _View, Inner)

    def __init__(self, data, name, size, at=0, records=()) -> None:
        super().__init__(data, name, at)
        self.size, self.records = size, frozenset(records)
        self.storages: dict[str, Storage] = {}
        self.stored = self.shown = 0  # bytes of all storages, and of all tensors

    def error(self, found):
        """Returns the DataError for what was found at this place."""
        return DataError(
            f"{self.name}: broken or unsafe pickle, {found} (near byte {self.at}); {WANTED}"
        )

    # Names, and what they are called with.

    def push_name(self, module, name):
        """Pushes what is known under a name."""
        known = f"{module}.{name}"
        if known in self.records:
            self.push(Class(known))
        elif known in CALLS or known in STORAGES:
            self.push(Mark(known))
        else:
            raise DataError(
                f"{self.name} names {known[:160]!r}, and nothing that a file names is run; {WANTED}"
            )

    def reduce(self):
        """Pushes what a known name gives, or a Record."""
        arguments, called = self.pop(), self.pop()
        if type(arguments) not in (tuple, Inner):
            raise self.error("a call without arguments")
        if type(called) is Class:
            self.push(self.make(called, arguments))
        elif type(called) is Mark and called.name in CALLS:
            self.push(getattr(self, f"make_{CALLS[called.name]}")(arguments))
        else:
            raise self.error("a call")

    def new_object(self):
        """Pushes the Record of a listed class."""
        arguments, called = self.pop(), self.pop()
        self.push(self.make(called, arguments))

    def make(self, called, arguments):
        """Returns the Record of a Class."""
        if type(called) is not Class or type(arguments) is not tuple:
            raise self.error("an object of no class")
        return Record(called.name, arguments)

    def build(self):
        """Gives a Record its state; those of dicts and parameters do not matter."""
        state, target = self.value(self.pop()), self.peek()
        if type(target) is Record:
            target.state = state
        elif type(target) not in (dict, np.ndarray):
            raise self.error("a state for something that has none")

    def make_dict(self, arguments):
        """Returns the dict of no arguments, or of one list of pairs."""
        pairs = arguments[0] if arguments else []
        if len(arguments) > 1 or type(pairs) is not list:
            raise self.error("an ordered dict that is not one")
        if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
            raise self.error("an ordered dict that is not one")
        self.push({})
        self.set_items([item for pair in pairs for item in pair])
        return self.pop()

    def make_set(self, arguments):
        """Returns the set of one list of texts."""
        if len(arguments) != 1 or type(arguments[0]) is not list:
            raise self.error("a set that is not one")
        if any(type(item) is not str for item in arguments[0]):
            raise self.error("a set of something else than texts")
        return set(arguments[0])

    def make_range(self, arguments):
        """Returns the range of its bounds."""
        if not 1 <= len(arguments) <= 3 or not _are_counts(arguments) or 0 in arguments[2:]:
            raise self.error("a range that is not one")
        return range(*arguments)

    def make_size(self, arguments):
        """Returns the shape, a tuple."""
        if len(arguments) != 1 or not _is_shape(arguments[0]):
            raise self.error("a shape that is not one")
        return arguments[0]

    def make_parameter(self, arguments):
        """Returns the tensor that a parameter is."""
        if not arguments or type(arguments[0]) is not np.ndarray:
            raise self.error("a parameter that is no tensor")
        return arguments[0]

    # Storages, and the tensors in them.

    def persistent(self):
        """Pushes what a persistent id means: a storage, or a class with its source text."""
        what = self.pop()
        kind = what[0] if type(what) in (tuple, Inner) and what else None
        if kind == "module" and len(what) == 4 and type(what[1]) is Class:
            self.push(what[1])
        elif kind == "storage" and len(what) in (5, 6):
            self.push(self.storage(*what[1:]))
        else:
            raise self.error("a reference to something else than a storage")

    def storage(self, kind, key, location, count, view=None):
        """Returns the view of a storage's numbers; on which device they were is no matter."""
        del location
        name = STORAGES.get(kind.name) if type(kind) is Mark else None
        if name is None or type(key) is not str or not _are_counts((count,)):
            raise self.error("a storage that is not one")
        known = self.storages.get(key)
        if known is None:
            self.stored += count * np.dtype(KINDS[name][0]).itemsize
            if self.stored > self.size:  # before anything of that size is made
                raise self.error(f"storages of {self.stored} bytes in a file of {self.size}")
            known = self.storages[key] = Storage(name, count)
        if (known.kind, known.count) != (name, count):
            raise self.error(f"two descriptions of the storage {key[:80]!r}")
        if view is None:
            return _View(known.values)
        if type(view) is not tuple or len(view) != 3 or not _are_counts(view[1:]):
            raise self.error("a part of a storage that is not one")
        _, start, length = view
        if start + length > count:
            raise self.error(f"a part up to {start + length} of a storage of {count} numbers")
        return _View(known.values[start : start + length])

    def make_tensor(self, arguments):
        """Returns the tensor of (storage, offset, shape, strides, ...), a view that is not
        writeable; both in numbers, strides 0 or more.
        """
        if len(arguments) < 4 or type(arguments[0]) is not _View:
            raise self.error("a tensor that is not one")
        values, (offset, shape, strides) = arguments[0].values, arguments[1:4]
        if not (_are_counts((offset,)) and _is_shape(shape) and _is_shape(strides)):
            raise self.error("a tensor that is not one")
        if len(shape) != len(strides):
            raise self.error(f"a tensor of {len(shape)} axes with {len(strides)} strides")
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if count and last >= len(values):
            raise self.error(
                f"a tensor {shape} that ends at number {last} of a storage of {len(values)}"
            )
        self.shown += count * values.itemsize
        if self.shown > COPIES * self.size:
            raise self.error(f"tensors of {self.shown} bytes in a file of {self.size}")
        if not count:
            if math.prod(n or 1 for n in shape) > MAX_ENTRIES:
                raise self.error(f"an empty tensor {shape}")
            return np.empty(shape, values.dtype)
        steps = zip(shape, strides, strict=True)  # along an axis of length 1 nobody steps
        return np.lib.stride_tricks.as_strided(
            values[offset:],
            shape,
            [step * values.itemsize if n > 1 else 0 for n, step in steps],
            writeable=False,
        )


def _are_counts(values):
    return all(type(value) is int and 0 <= value < sys.maxsize for value in values)


def _is_shape(value):
    return type(value) is tuple and len(value) <= MAX_AXES and _are_counts(value)


TorchMachine.opcodes = {
    **Machine.opcodes,
    b"U": lambda m: m.push(m.text(m.take(m.number("<B")))),  # Python 2 wrote text so
    b"T": lambda m: m.push(m.text(m.take(m.number("<i")))),
    b"Q": TorchMachine.persistent,
    b"\x81": TorchMachine.new_object,
    b"R": TorchMachine.reduce,
    b"b": TorchMachine.build,
}
