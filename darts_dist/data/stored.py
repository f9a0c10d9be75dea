"""Labelled pictures that stay on disk and are decoded when a batch asks for them.

The lazy sibling of `sources.Pictures`: what it holds is the list of pictures, not their pixels.
Which picture comes when is `pipeline`'s business, how it is cut `crops`'.

Letters: n pictures of a batch, H W pixels, C channels.
"""

import dataclasses
import functools
import os
import pathlib
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Protocol

import numpy as np

from darts_dist.data import crops, folder
from darts_dist.errors import DataError

TRIED = 100  # broken pictures in a row; after these it is rather the disk
TOLD = 5  # broken pictures that are told one by one; then each tenth, hundredth, ...
BLOCK = 256  # pictures that `find_broken` hands to its threads at a time


class Store(Protocol):
    """Encoded pictures by number."""

    root: pathlib.Path
    names: Sequence[str]
    """Of the pictures, for people."""

    def read(self, index: int) -> bytes:
        """Returns one picture as it lies on disk."""
        ...

    def sizes(self, count: int) -> list[int]:
        """Returns sizes in bytes of what the first pictures lie in."""
        ...


@dataclasses.dataclass(eq=False)
class Files:
    """A Store of one file a picture; names are paths from the root."""

    root: pathlib.Path
    names: Sequence[str]

    def read(self, index: int) -> bytes:
        """Returns one picture as it lies on disk."""
        with open(os.path.join(self.root, self.names[index]), "rb") as file:
            return file.read()

    def sizes(self, count: int) -> list[int]:
        """Returns the files' sizes in bytes; -1 for one that is not there."""
        return [self._size(name) for name in self.names[:count]]

    def _size(self, name: str) -> int:
        try:
            return os.stat(os.path.join(self.root, name)).st_size
        except OSError:
            return -1


class Broken:
    """The pictures of a set that could not be read, and what becomes of them.

    skip: the next one takes the place of each; else the first ends the run.  say: gets lines for
    people.  All threads of a process share one.
    """

    def __init__(self, *, skip: bool, say: Callable[[str], None]) -> None:
        self.skip, self._say = skip, say
        self._found: set[int] = set()
        self._lock = threading.Lock()

    def __contains__(self, index: int) -> bool:
        """Returns whether a picture is known to be broken."""
        return index in self._found

    def add(self, index: int, what: str) -> None:
        """Counts a picture and tells of it; DataError where none may be left out."""
        if not self.skip:
            raise DataError(
                f"{what}; mend or remove it, or let the next take its place: data.broken=skip"
            )
        with self._lock:
            if index in self._found:
                return
            self._found.add(index)
            count = len(self._found)
        if count <= TOLD or str(count).strip("0") == "1":
            self._say(f"warning: {what}; the next takes its place; {count} so far")


@dataclasses.dataclass(frozen=True, eq=False)
class StoredPictures:
    """Labelled pictures on disk.

    labels: int32[M] in 0..len(class_names)-1.  mean, std: C numbers each, for pictures scaled to
    0..1.  shape: (H, W, C) of what is cut out of each.  area_min: smallest share of a picture that
    a random crop keeps.
    """

    store: Store
    labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int]
    area_min: float
    broken: Broken
    words: ClassVar[int] = crops.WORDS
    """Random words that the crop of a picture takes."""

    def first(self, count: int) -> "StoredPictures":
        """Returns the first of them."""
        return dataclasses.replace(self, labels=self.labels[:count])

    def gather(
        self, part: np.ndarray, positions: np.ndarray, words: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns images uint8[..., H, W, C], labels int32[...] and own bool[...].

        part: numbers of pictures.  positions: int64[...] in it.  words: uint64[..., WORDS], what
        the crops are drawn by; None: the centres.  A broken picture's place is taken by the next
        whole one of the part; `own` is false there.  Raises DataError for one that stops the run.
        """
        flat = positions.reshape(-1)
        images = np.empty((len(flat), *self.shape), np.uint8)
        taken = np.empty(len(flat), np.int64)
        drawn = [None] * len(flat) if words is None else words.reshape(-1, self.words)
        for at, (position, own) in enumerate(zip(flat, drawn, strict=True)):
            taken[at], images[at] = self._whole(part, int(position), own)
        own = taken == part[flat]
        shape = positions.shape
        labels = self.labels[taken].reshape(shape)
        return images.reshape(*shape, *self.shape), labels, own.reshape(shape)

    def _whole(self, part, position, words):
        """Returns (number, picture) of the first that can be read from a position of a part on."""
        last = ""
        for at in range(position, position + min(TRIED, len(part))):
            index = int(part[at % len(part)])
            if index in self.broken:
                continue
            try:
                return index, self._cut(self.store.read(index), words)
            except MemoryError:
                raise
            except Exception as error:  # a decoder may raise any class for a damaged file
                last = f"{self.store.root}: {self.store.names[index]} is broken"
                self.broken.add(index, f"{last} ({folder.why(error)})")
        raise DataError(
            f"{last or self.store.root}: no picture of {min(TRIED, len(part))} in a row can be "
            "read; see whether the disk is there, and `prepare_data.py check`"
        )

    def _cut(self, data, words):
        image_px, channels = self.shape[0], self.shape[2]
        if words is None:
            return crops.cut_centre(data, image_px=image_px, channels=channels)
        return crops.cut_random(
            data, words, image_px=image_px, channels=channels, area_min=self.area_min
        )

    def checksums(self) -> dict[str, str]:
        """Returns checksums of labels and of the list of pictures; no picture is read."""
        count = len(self.labels)
        names = "\n".join(self.store.names[:count]).encode("utf-8", "surrogateescape")
        sizes = np.array(self.store.sizes(count), np.int64)
        return {
            "the crc32 of the pictures' names": f"{zlib.crc32(names):08x}",
            "the crc32 of the files' sizes": f"{zlib.crc32(sizes.tobytes()):08x}",
            "the crc32 of the labels": f"{zlib.crc32(self.labels.tobytes()):08x}",
        }


def open_folder(path: str | os.PathLike, split: str) -> tuple[Files, np.ndarray, tuple[str, ...]]:
    """Returns a folder's pictures, their labels and the names of the classes, as `folder` has them.

    split: "train" or "test", which is val/.  Raises DataError.
    """
    root, class_names, files, labels = folder.find(path, split)
    within = functools.cache(lambda directory: os.path.relpath(directory, root))
    names = [os.path.join(within(os.path.dirname(file)), os.path.basename(file)) for file in files]
    return Files(root, names), labels, class_names


def find_broken(store: Store, progress: Callable[[int, int], None]) -> Iterator[tuple[str, str]]:
    """Yields (name, reason) of every picture that cannot be read, in order; by threads.

    progress: called now and then with how many have been read, and how many there are.
    """
    total = len(store.names)

    def reason(index):
        try:
            crops.check(store.read(index))
        except Exception as error:  # a decoder may raise any class for a damaged file
            return folder.why(error)
        return None

    with ThreadPoolExecutor() as pool:
        for start in range(0, total, BLOCK):
            block = range(start, min(start + BLOCK, total))
            for index, found in zip(block, pool.map(reason, block), strict=True):
                if found:
                    yield store.names[index], found
            progress(block.stop, total)
