"""Pictures in ArrayRecord files: written from a folder, opened again.

A folder of shards, whose records are the encoded pictures as they were, in the order of `folder`,
and `index.json`, which has their names, labels and the names of the classes and is written last:
without it there is nothing. What is read is decoded by `stored`.
"""

import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import grain
import msgspec
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from darts_dist.data import folder, stored
from darts_dist.data.folder import FORMATS, MODES, in_mode
from darts_dist.errors import DataError, StorageError

INDEX, PLAN = "index.json", "plan.json"
QUALITY = 95  # of JPEGs that are made smaller
OPTIONS = "group_size:1,uncompressed"  # each record is read alone; JPEG does not get smaller


class Shard(msgspec.Struct, frozen=True):
    """One file: its name, its records, its size in bytes."""

    file: str
    count: int
    size: int


class Split(msgspec.Struct, frozen=True):
    """The pictures of training or of scoring."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    shards: tuple[Shard, ...]


class Index(msgspec.Struct, frozen=True):
    """All there is; plan: a checksum of what was asked for."""

    format: Literal["darts-dist pictures 1"]
    plan: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]


class Records:
    """A `stored.Store` of the records of some shards."""

    def __init__(self, root: pathlib.Path, split: Split) -> None:
        self.root: pathlib.Path = root
        self.names: Sequence[str] = split.names
        self._shards = split.shards
        # The counts spare opening every shard before the first step.
        parts = [f"{root / shard.file}[0:{shard.count}]" for shard in split.shards]
        self._source = grain.sources.ArrayRecordDataSource(parts)

    def read(self, index: int) -> bytes:
        """Returns one picture as it lies on disk."""
        return self._source[index]

    def sizes(self, count: int) -> list[int]:
        """Returns the shards' sizes in bytes."""
        del count
        return [shard.size for shard in self._shards]


def is_packed(path: str | os.PathLike) -> bool:
    """Returns whether a folder is one that `write` left."""
    return (pathlib.Path(path).expanduser() / INDEX).is_file()


def open_folder(path: str | os.PathLike, split: str) -> tuple[Records, np.ndarray, tuple[str, ...]]:
    """Returns the pictures in a folder's shards, their labels int32[M], the names of the classes.

    split: "train" or "test".  Raises DataError for what is not as `write` left it.
    """
    root = pathlib.Path(path).expanduser()
    index = _read_index(root)
    if split not in index.splits:
        raise DataError(
            f"{root}: no pictures to evaluate on; write it anew from a folder with val/<class>/*, "
            "or take a share of the training pictures: data.train_fraction=0.9"
        )
    part = index.splits[split]
    for shard in part.shards:
        try:
            found = (root / shard.file).stat().st_size
        except OSError as error:
            raise DataError(f"{root / shard.file} cannot be read: {error.strerror}") from error
        if found != shard.size:
            raise DataError(
                f"{root / shard.file} has {found} bytes and {INDEX} says {shard.size}; copy it "
                "again, or write the folder anew"
            )
    return Records(root, part), np.array(part.labels, np.int32), index.class_names


def splits(path: str | os.PathLike) -> tuple[str, ...]:
    """Returns which of "train" and "test" a folder has that `write` left."""
    return tuple(_read_index(pathlib.Path(path).expanduser()).splits)


def _read_index(root):
    try:
        return msgspec.json.decode((root / INDEX).read_bytes(), type=Index)
    except FileNotFoundError:
        why = f"{PLAN} is there: it was not finished" if (root / PLAN).exists() else "it is missing"
        raise DataError(
            f"{root / INDEX}: {why}; `prepare_data.py arrayrecord SRC {root}` writes it"
        ) from None
    except OSError as error:
        raise DataError(f"{root / INDEX} cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{root / INDEX} is damaged: {error}; write the folder anew") from error


def write(
    source: str | os.PathLike,
    out: pathlib.Path,
    *,
    per_shard: int,
    short_px: int,
    say: Callable[[str], None],
) -> None:
    """Writes a folder of pictures, as `folder` reads it, into shards; goes on where it stopped.

    per_shard: pictures in a file.  short_px: pictures whose short side has more are made smaller
    and become JPEGs; 0: all stay as they are.  say: gets lines for people.
    Raises DataError for what cannot be read and for an `out` that holds something else,
    StorageError where it cannot be written.
    """
    found = {split: stored.open_folder(source, split) for split in folder.splits(source)}
    plan = _checksum(found, per_shard, short_px)
    try:
        if not _begin(out, plan):
            say(f"{out} is written already")
            return
        parts = {}
        for split, (store, labels, _) in found.items():
            shards = _write_split(store, out, split, per_shard, short_px, say)
            parts[split] = Split(tuple(store.names), tuple(labels.tolist()), tuple(shards))
        index = Index("darts-dist pictures 1", plan, found["train"][2], parts)
        _write_whole(out / INDEX, msgspec.json.encode(index))
        (out / PLAN).unlink()
    except OSError as error:
        raise StorageError(
            f"{error.filename or out} cannot be written: {error.strerror or error}; what is there "
            "is kept"
        ) from error


def _checksum(found, per_shard, short_px):
    """Returns what tells one conversion from another: 64 hex digits."""
    digest = hashlib.sha256(repr((per_shard, short_px)).encode())
    for split, (store, labels, class_names) in found.items():
        try:
            names = "\n".join(store.names).encode()
        except UnicodeEncodeError as error:
            name = next(one for one in store.names if not _is_text(one))
            raise DataError(f"{store.root}: the name {name!r} is no text; rename it") from error
        sizes = store.sizes(len(labels))
        digest.update(names + labels.tobytes() + repr((split, class_names, sizes)).encode())
    return digest.hexdigest()


def _is_text(name):
    return name.encode("utf-8", "replace") == name.encode("utf-8", "surrogateescape")


def _begin(out, plan):
    """Makes the folder ready; returns whether there is something to do."""
    out.mkdir(parents=True, exist_ok=True)
    if is_packed(out):
        if _read_index(out).plan == plan:
            return False
        raise DataError(f"{out} holds other pictures; choose another folder")
    if (out / PLAN).exists():
        if (out / PLAN).read_text() == plan:
            return True
        raise DataError(
            f"{out} holds the beginning of something else, or its pictures have changed; choose "
            "another folder, or remove it"
        )
    if any(out.iterdir()):
        raise DataError(f"{out} is not empty; choose another folder")
    _write_whole(out / PLAN, plan.encode())
    return True


def _write_split(store, out, split, per_shard, short_px, say):
    """Returns the shards of a split, written where they are not there yet."""
    count = len(store.names)
    total = -(-count // per_shard)
    shards = []

    def encoded(at):
        try:
            data = store.read(at)
            return shrink(data, short_px) if short_px else data
        except Exception as error:  # a decoder may raise any class for a damaged file
            raise DataError(
                f"{store.root}: {store.names[at]} is broken ({folder.why(error)}); mend or remove "
                "it; `prepare_data.py check` names all that are"
            ) from error

    with ThreadPoolExecutor() as pool:
        for number in range(total):
            path = out / f"{split}-{number:05}-of-{total:05}.array_record"
            block = range(number * per_shard, min((number + 1) * per_shard, count))
            if not path.exists():
                _write_shard(path, pool.map(encoded, block))
                say(f"{path.name}: {block.stop} of {count} pictures")
            shards.append(Shard(path.name, len(block), path.stat().st_size))
    return shards


def _write_shard(path, pictures):
    part = path.with_name(f"{path.name}.part")
    writer = ArrayRecordWriter(str(part), OPTIONS)
    try:
        for data in pictures:
            writer.write(data)
    finally:
        writer.close()
    _sync(part)
    os.replace(part, path)


def _write_whole(path, data):
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    _sync(part)
    os.replace(part, path)


def _sync(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def shrink(data: bytes, short_px: int) -> bytes:
    """Returns a picture with a short side of at most short_px pixels; a smaller one as it is.

    Raises whatever Pillow does.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        short = min(image.size)
        if short <= short_px:
            return data
        width, height = (side * short_px // short for side in image.size)
        whole = in_mode(image, MODES[1 if image.mode in ("1", "L", "LA") else 3])
        small = whole.resize((width, height), Image.Resampling.LANCZOS)
    made = io.BytesIO()
    small.save(made, "JPEG", quality=QUALITY)
    return made.getvalue()
