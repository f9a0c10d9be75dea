"""Reads the official CIFAR layouts, checked: python and binary folders, or their archives.

Archives are read member by member and never unpacked to disk. What the numbers mean (statistics,
which data set a name stands for) is `sources`' business.
"""

import dataclasses
import gzip
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from darts_dist.data import unpickle
from darts_dist.errors import DataError

PIXELS = 32 * 32 * 3
MAX_FILE_BYTES = 2**30  # the largest official file has 155 MB
AGAIN = "download it again from https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclasses.dataclass(frozen=True)
class Layout:
    """One official way to store a CIFAR set: its folder, archive, files and their parsers."""

    folder: str
    archive: str
    files: dict[str, tuple[str, ...]]  # split -> files in order
    names_file: str
    parse_pictures: Callable[[bytes, str], tuple]  # to uint8[M, PIXELS], M integers
    parse_names: Callable[[bytes, str], list[str]]


def read(kind, path, split):
    """Returns images uint8[M, 32, 32, 3], labels int32[M] and the names of the classes.

    kind: a key of LAYOUTS.  path: str or Path of the official folder, its parent, the official
    archive, or a folder that holds it.  split: "train" or "test".  Raises DataError.
    """
    layouts, classes = LAYOUTS[kind], CLASSES[kind]
    place = _locate(kind, layouts, path, split)
    files = _folder_files if place.is_dir() else _archive_files
    parsers = {}
    for layout in layouts:
        parsers |= {name: layout.parse_pictures for name in layout.files[split]}
        parsers[layout.names_file] = layout.parse_names
    parsed = {}
    for name, data in files(place, parsers):
        what = f"{place}: {name}"
        parsed[name] = (what, parsers[name](data, what))
    layout = max(layouts, key=lambda one: sum(name in parsed for name in _wanted(one, split)))
    missing = [name for name in _wanted(layout, split) if name not in parsed]
    if missing:
        raise DataError(
            f"{place}: no {', '.join(missing)}; data.kind={kind} wants them in "
            f"{layout.folder} or {layout.archive}; {AGAIN}"
        )
    what, names = parsed[layout.names_file]
    if len(names) != classes:
        raise DataError(f"{what}: {len(names)} class names; wanted {classes}; {AGAIN}")
    parts = [_checked(parsed[name], classes) for name in layout.files[split]]
    rows, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels, tuple(names)


def _checked(parsed, classes):
    what, (rows, labels) = parsed
    if len(rows) != len(labels) or not labels:
        raise DataError(
            f"{what}: {len(rows)} pictures and {len(labels)} labels; wanted as many of both, "
            f"at least one; {AGAIN}"
        )
    low, high = min(labels), max(labels)
    if low < 0 or high >= classes:
        found = low if low < 0 else high
        raise DataError(f"{what}: label {found}; wanted 0 to {classes - 1}; {AGAIN}")
    return rows, np.asarray(labels, np.int32)


def _wanted(layout, split):
    return (*layout.files[split], layout.names_file)


def _locate(kind, layouts, path, split):
    """Returns the folder or archive to read: `path` itself, or what is in it by official names."""
    if not str(path):
        raise DataError(
            f"data.path is empty; data.kind={kind} wants the folder {layouts[0].folder} or the "
            f"file {layouts[0].archive}"
        )
    place = pathlib.Path(os.path.expanduser(path))  # an unknown ~user stays
    try:
        if not place.exists():
            raise DataError(
                f"{place} does not exist; data.path wants the folder {layouts[0].folder} or the "
                f"file {layouts[0].archive}"
            )
        if any((place / name).is_file() for one in layouts for name in _wanted(one, split)):
            return place
        inside = [place / one.folder for one in layouts] + [place / one.archive for one in layouts]
        return next((one for one in inside if one.exists()), place)
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror or error}") from error


def _folder_files(folder, wanted) -> Iterator[tuple[str, bytes]]:
    for name in wanted:
        file = folder / name
        try:
            if file.is_file():
                yield name, _limited(file, file.stat().st_size, file.read_bytes)
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


def _archive_files(archive, wanted) -> Iterator[tuple[str, bytes]]:
    """Yields the wanted members in the archive's order, then checks the archive's own checksum."""
    try:
        with gzip.open(archive) as plain, tarfile.open(fileobj=plain, mode="r|") as members:
            for member in members:
                name = pathlib.PurePosixPath(member.name).name
                opened = members.extractfile(member) if name in wanted and member.isfile() else None
                if opened is not None:
                    yield name, _limited(f"{archive}: {name}", member.size, opened.read)
            while plain.read(2**20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        raise DataError(
            f"{archive} is not a whole .tar.gz archive: {error}; wanted the file as downloaded; "
            f"{AGAIN}"
        ) from error


def _limited(what, size, read):
    if size > MAX_FILE_BYTES:
        raise DataError(f"{what}: {size} bytes; wanted at most {MAX_FILE_BYTES}; {AGAIN}")
    return read()


# Parsers: one file's bytes to arrays.


def _pickle_parser(label_key):
    def parse(data, what):
        batch = _unpickled_dict(data, what)
        rows, labels = _entry(batch, "data", what), _entry(batch, label_key, what)
        found = f"{rows.dtype}{list(rows.shape)}" if type(rows) is np.ndarray else "no array"
        if type(rows) is not np.ndarray or found != f"uint8[{len(rows)}, {PIXELS}]":
            raise DataError(f"{what}: data is {found}; wanted uint8[pictures, {PIXELS}]; {AGAIN}")
        if type(labels) is not list or any(type(label) is not int for label in labels):
            raise DataError(f"{what}: {label_key} is not a list of integers; {AGAIN}")
        return rows, labels

    return parse


def _binary_parser(label_bytes):
    """Parses records of `label_bytes` labels, the wanted one last, and a picture's planes."""

    def parse(data, what):
        size = label_bytes + PIXELS
        if not data or len(data) % size:
            raise DataError(
                f"{what}: {len(data)} bytes; wanted a multiple of {size} (one picture each), so it "
                f"is cut short or of another kind; {AGAIN}"
            )
        records = np.frombuffer(data, np.uint8).reshape(-1, size)
        return records[:, label_bytes:], records[:, label_bytes - 1].tolist()

    return parse


def _pickled_names(key):
    def parse(data, what):
        names = _entry(_unpickled_dict(data, what), key, what)
        if type(names) is not list or any(type(name) not in (bytes, str) for name in names):
            raise DataError(f"{what}: {key} is not a list of names; {AGAIN}")
        return [_text(name) for name in names]

    return parse


def _lines(data, what):
    del what
    return [line.strip() for line in _text(data).splitlines() if line.strip()]


def _text(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _unpickled_dict(data, what):
    value = unpickle.loads(data, what)
    if type(value) is not dict:
        raise DataError(f"{what}: holds a {type(value).__name__}; wanted a dict; {AGAIN}")
    return {_text(key): item for key, item in value.items() if type(key) in (bytes, str)}


def _entry(batch, key, what):
    if key not in batch:
        found = ", ".join(sorted(batch)[:8]) or "nothing"
        raise DataError(f'{what}: no entry "{key}" (found: {found}); is it the right data set?')
    return batch[key]


_FIVE = [f"data_batch_{number}" for number in range(1, 6)]
LAYOUTS = {
    "cifar10": (
        Layout(
            folder="cifar-10-batches-py",
            archive="cifar-10-python.tar.gz",
            files={"train": tuple(_FIVE), "test": ("test_batch",)},
            names_file="batches.meta",
            parse_pictures=_pickle_parser("labels"),
            parse_names=_pickled_names("label_names"),
        ),
        Layout(
            folder="cifar-10-batches-bin",
            archive="cifar-10-binary.tar.gz",
            files={"train": tuple(f"{name}.bin" for name in _FIVE), "test": ("test_batch.bin",)},
            names_file="batches.meta.txt",
            parse_pictures=_binary_parser(1),
            parse_names=_lines,
        ),
    ),
    "cifar100": (
        Layout(
            folder="cifar-100-python",
            archive="cifar-100-python.tar.gz",
            files={"train": ("train",), "test": ("test",)},
            names_file="meta",
            parse_pictures=_pickle_parser("fine_labels"),
            parse_names=_pickled_names("fine_label_names"),
        ),
        Layout(
            folder="cifar-100-binary",
            archive="cifar-100-binary.tar.gz",
            files={"train": ("train.bin",), "test": ("test.bin",)},
            names_file="fine_label_names.txt",
            parse_pictures=_binary_parser(2),
            parse_names=_lines,
        ),
    ),
}
CLASSES = {"cifar10": 10, "cifar100": 100}
