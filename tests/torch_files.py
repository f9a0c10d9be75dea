"""Files as PyTorch writes them, made without it: stand-ins under its names, and both containers."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from unittest import mock

import numpy as np

KINDS = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "u1": "Byte", "b1": "Bool"}


def _function(module, name):
    def made():
        raise AssertionError("nothing is called")

    made.__module__, made.__qualname__, made.__name__ = module, name, name
    return made


REBUILD = _function("torch._utils", "_rebuild_tensor")
REBUILD_V2 = _function("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = _function("torch._utils", "_rebuild_parameter")
NAMES = [REBUILD, REBUILD_V2, REBUILD_PARAMETER]


def _class(module, name):
    made = type(name, (), {})
    made.__module__, made.__qualname__ = module, name
    NAMES.append(made)
    return made


STORAGES = {
    (module, kind): _class(module, f"{kind}Storage")
    for module in ("torch", "torch.cuda")
    for kind in (*KINDS.values(), "BFloat16")
}
PARAMETER = _class("torch.nn.parameter", "Parameter")
SIZE = _class("torch", "Size")
MODEL = _class("model", "RNNModel")
LINEAR = _class("torch.nn.modules.linear", "Linear")


class Storage:
    """Numbers that tensors share; kind: another name than the dtype's, for bfloat16."""

    def __init__(self, values, kind="", module="torch", count=None, view=()):
        self.values = np.asarray(values)
        kind = kind or KINDS[self.values.dtype.str.lstrip("<>|=")]
        self.type = STORAGES[module, kind]
        self.count, self.view = self.values.size if count is None else count, view


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def tensor(storage, offset=0, shape=None, strides=None):
    """Returns what pickles as a tensor of a Storage, or of an array with one of its own."""
    if isinstance(storage, np.ndarray):
        shape, storage = storage.shape, Storage(storage.ravel())
    shape = (storage.values.size,) if shape is None else shape
    if strides is None:
        strides = tuple(int(np.prod(shape[at + 1 :])) for at in range(len(shape)))
    return Call(REBUILD_V2, storage, offset, shape, strides, False, collections.OrderedDict())


def state_of(arrays):
    """Returns the state dict of arrays by name, with what later PyTorch adds to it."""
    state = collections.OrderedDict((name, tensor(value)) for name, value in arrays.items())
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    return state


class _Pickler(pickle.Pickler):
    """Storages become persistent ids, as zip or legacy files have them."""

    def __init__(self, out, protocol, legacy):
        super().__init__(out, protocol)
        self.legacy, self.storages = legacy, []

    def persistent_id(self, item):
        if not isinstance(item, Storage):
            return None
        if item not in self.storages:
            self.storages.append(item)
        key = str(self.storages.index(item))
        view = (item.view or None,) if self.legacy else ()
        return ("storage", item.type, key, "cpu", item.count, *view)


def pickled(value, protocol=2, legacy=False):
    """Returns (bytes, storages) of a pickle."""
    modules = {}
    for one in NAMES:
        for at in range(one.__module__.count(".") + 1):
            name = ".".join(one.__module__.split(".")[: at + 1])
            modules.setdefault(name, types.ModuleType(name))
        setattr(modules[one.__module__], one.__name__, one)
    out = io.BytesIO()
    pickler = _Pickler(out, protocol, legacy)
    with mock.patch.dict(sys.modules, modules):
        pickler.dump(value)
    return out.getvalue(), pickler.storages


def as_zip(value, protocol=2, order="little", pack=zipfile.ZIP_STORED):
    """Returns the bytes of a zip of PyTorch 1.6 or later; value: bytes are the pickle itself."""
    data, storages = (value, []) if isinstance(value, bytes) else pickled(value, protocol)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", pack) as archive:
        archive.writestr("net/data.pkl", data)
        archive.writestr("net/byteorder", order)
        for key, storage in enumerate(storages):
            swapped = storage.values.astype(storage.values.dtype.newbyteorder(order))
            archive.writestr(f"net/data/{key}", swapped.tobytes())
        archive.writestr("net/version", "3\n")
    return out.getvalue()


def as_legacy(value, protocol=2, little_endian=True):
    """Returns the bytes of a file of PyTorch before 1.6; value: bytes are the pickle itself."""
    raw = isinstance(value, bytes)
    data, storages = (value, []) if raw else pickled(value, protocol, legacy=True)
    system = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"int": 4}}
    keys = [str(key) for key in range(len(storages))]
    head = [pickle.dumps(one, protocol) for one in (0x1950A86A20F9469CFC6C, 1001, system)]
    parts = [*head, data, pickle.dumps(keys, protocol)]
    for storage in storages:
        parts += [struct.pack("<q", storage.values.size), storage.values.tobytes()]
    return b"".join(parts)


CONTAINERS = {"zip": as_zip, "legacy": as_legacy}
