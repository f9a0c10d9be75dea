"""Files of PyTorch: `.pt`, `.pth`, `.pth.tar`, read without trusting them, and written.

Place: layer 2; numpy and the standard library, no PyTorch. It knows the two containers: the zip of
PyTorch 1.6 and later, and before that one pickle after the other with the numbers behind them.
What is in a file as a whole has to fit into its size before anything is made of it. What the names
of tensors mean is `interop`'s business.
"""

import contextlib
import io
import mmap
import os
import pathlib
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from darts_dist.errors import DataError, StorageError
from darts_dist.torchpickle import KINDS, TorchMachine

ZIP = b"PK\x03\x04"
PICKLE = b"\x80"
OTHERS = {  # how files begin that are often taken for one of PyTorch's
    b"\x1f\x8b": "is compressed by gzip; unpack it: gunzip",
    b"BZh": "is compressed by bzip2; unpack it: bunzip2",
    b"\xfd7zXZ": "is compressed by xz; unpack it: unxz",
    b"\x93NUMPY": "is an array of numpy",
    b"\x89HDF": "is a file of HDF5",
    b"<": "is a web page",
}
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
WANTED = "wanted a file that torch.save wrote"
ALIGNMENT = 64  # bytes; PyTorch puts its arrays on such places, to map them into memory


def read(path: str | os.PathLike, records: Iterable[str] = ()) -> Any:
    """Returns what a file holds, its tensors as arrays that are not writeable.

    float16, 32, 64 and whole numbers keep their dtype, bfloat16 comes as float32; tensors that
    share a storage share memory.  records: names of classes and functions, "model.RNNModel", that
    come as `torchpickle.Record`.  Raises DataError for anything that is missing, broken or unsafe.
    """
    place = pathlib.Path(path)
    try:
        size = place.stat().st_size
        with open(place, "rb") as file:
            start = file.read(512)
            if not start:
                raise DataError(f"{path} is empty; {WANTED}")
            if start.startswith(ZIP):
                return _read_zip(file, str(path), size, records)
            if start.startswith(PICKLE):
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return _read_legacy(data, str(path), size, records)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; {WANTED}") from None
    found = [text for begin, text in OTHERS.items() if start.startswith(begin)]
    if start[257:262] == b"ustar":
        found = ["is a tar archive, as PyTorch wrote before 0.1.10; save it with a later one"]
    raise DataError(f"{path} {found[0] if found else 'is not a file of PyTorch'}; {WANTED}")


def read_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the state dict of a file: names -> arrays, in the file's order.

    The file may hold it under the key "state_dict", and the names may begin with "module.", as a
    network in DataParallel has them.  Raises DataError.
    """
    found = read(path)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not found:
        kind = "an empty dict" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise DataError(f"{path} holds {kind}; wanted a state dict, or one under state_dict")
    others = [str(name) for name, value in found.items() if not isinstance(value, np.ndarray)]
    if others:
        raise DataError(
            f"{path} holds more than tensors: {', '.join(others[:5])}; wanted a state dict, or one "
            "under state_dict"
        )
    names = [str(name) for name in found]
    bare = all(name.startswith("module.") for name in names)
    return {
        name.removeprefix("module.") if bare else name: value
        for name, value in zip(names, found.values(), strict=True)
    }


# The two containers.


@contextlib.contextmanager
def _as_data_errors(name: str) -> Iterator[None]:
    """Turns what zipfile raises for broken archives into a DataError."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        RuntimeError,  # encrypted, or packed in a way that zipfile does not know
        ValueError,
        OverflowError,
    ) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{name} is broken or cut short: {reason}; {WANTED}") from None


def _read_zip(file, name, size, records):
    with _as_data_errors(name), zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        packed = [one for one, info in members.items() if info.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise DataError(f"{name}: {packed[0]} is compressed; {WANTED}, which compresses none")
        total = sum(info.file_size for info in archive.infolist())
        if total > size:
            raise DataError(f"{name}: members of {total} bytes in a file of {size}; {WANTED}")
        pickles = [one for one in members if re.fullmatch(r"([^/]+/)?data\.pkl", one)]
        if len(pickles) != 1:
            raise DataError(f"{name}: {len(pickles)} members are called data.pkl; {WANTED}")
        folder = pickles[0].removesuffix("data.pkl")
        machine = TorchMachine(archive.read(pickles[0]), name, size, records=records)
        value = machine.run()
        order = "little"
        if f"{folder}byteorder" in members:
            order = archive.read(f"{folder}byteorder").decode("latin-1")
        if order not in ("little", "big"):
            raise DataError(f'{name}: byteorder = "{order[:40]}"; wanted little or big')
        for key, storage in machine.storages.items():
            info = members.get(f"{folder}data/{key}")
            found = -1 if info is None else info.file_size
            if info is None or found != storage.nbytes:
                what = "is missing" if info is None else f"has {found} bytes"
                raise DataError(f"{name}: data/{key} {what}, wanted {storage.nbytes}; {WANTED}")
            storage.fill(archive.read(info), order)
        return value


def _read_legacy(data, name, size, records):
    at, head = 0, []
    for wanted in (int, int, dict):
        machine = TorchMachine(data, name, size, at)
        head.append(machine.run())
        at = machine.at
        if type(head[-1]) is not wanted or (head[0] != MAGIC):
            raise DataError(f"{name} is a pickle, but none of PyTorch's; {WANTED}")
    _, protocol, system = head
    if protocol != PROTOCOL:
        raise DataError(f"{name} has the format {protocol}; wanted {PROTOCOL}")
    if system.get("little_endian") is not True:
        raise DataError(
            f"{name} was written on a big-endian machine; save it again with PyTorch 1.6 or later"
        )
    machine = TorchMachine(data, name, size, at, records)
    value = machine.run()
    order = TorchMachine(data, name, size, machine.at)
    keys = order.run()
    known = type(keys) is list and all(type(key) is str for key in keys)
    if not known or sorted(keys) != sorted(machine.storages):
        raise DataError(f"{name} is broken: its list of storages is not that of its tensors")
    at = order.at
    for key in keys:
        storage = machine.storages[key]
        end = at + 8 + storage.nbytes
        if end > size:
            raise DataError(f"{name} is cut short: {size} bytes, wanted {end} or more")
        (count,) = struct.unpack("<q", data[at : at + 8])
        if count != storage.count:
            raise DataError(f"{name}: a storage has {count} numbers, wanted {storage.count}")
        storage.fill(data[at + 8 : end])
        at = end
    return value


# Writing.


def write(path: str | os.PathLike, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict, whole or not at all, as the zip that torch.load reads.

    Raises StorageError where the place cannot be written.
    """
    place = pathlib.Path(path)
    arrays = [np.asarray(value, order="C") for value in state.values()]
    new = place.with_name(f"{place.name}.new")
    try:
        with open(new, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            folder = place.name.partition(".")[0] or "archive"
            _add(archive, f"{folder}/data.pkl", _pickle(dict(zip(state, arrays, strict=True))))
            _add(archive, f"{folder}/byteorder", b"little")
            for key, array in enumerate(arrays):
                raw = array.astype(array.dtype.newbyteorder("<"), copy=False)
                _add(archive, f"{folder}/data/{key}", raw.tobytes())
            _add(archive, f"{folder}/version", b"3\n")
        os.replace(new, place)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from None


def _add(archive, name, content):
    """Adds a member, its content on a multiple of ALIGNMENT."""
    info = zipfile.ZipInfo(name)
    at = archive.fp.tell() + 30 + len(name.encode()) + 4
    padding = -at % ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(info, content)


def _pickle(state):
    """Returns the pickle of an ordered dict of tensors, storage 0, 1, ... one each."""
    kinds = {np.dtype(held): kind for kind, (_, held) in reversed(KINDS.items())}
    out = io.BytesIO()
    empty_dict = b"ccollections\nOrderedDict\n)R"
    out.write(b"\x80\x02" + empty_dict + b"(")
    for key, (name, array) in enumerate(state.items()):
        kind = kinds[array.dtype.newbyteorder("=")]
        strides = tuple(step // array.itemsize for step in array.strides)
        out.write(_value(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((")
        out.write(_value("storage") + f"ctorch\n{kind}Storage\n".encode() + _value(str(key)))
        out.write(_value("cpu") + _value(array.size) + b"tQ")
        out.write(_value(0) + _value(array.shape) + _value(strides) + b"\x89" + empty_dict + b"tR")
    out.write(b"u.")
    return out.getvalue()


def _value(value):
    """Returns the opcodes of a number, a text or a tuple of numbers."""
    return pickle.dumps(value, 2)[2:-1]
