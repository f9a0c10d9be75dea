"""A share of a folder of pictures, the same of each class, as links: to search on.

Which pictures are taken follows from their names alone, and a smaller share is a part of a larger.
"""

import errno
import os
import pathlib
import shutil

import numpy as np

from darts_dist.data import folder
from darts_dist.errors import DataError, StorageError

NO_HARD_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}


def choose(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Returns the numbers of the pictures that are taken: int64, rising.

    labels: int32[M], in the order of `folder`.  Of each class the first, rounded, at least one.
    """
    taken = []
    for label in range(int(labels.max()) + 1):
        own = np.flatnonzero(labels == label)
        taken.append(own[: max(round(fraction * len(own)), 1)])
    return np.sort(np.concatenate(taken))


def link(source: str | os.PathLike, out: pathlib.Path, fraction: float) -> tuple[int, int]:
    """Makes `out`/train/<class>/* of links to a share of the training pictures of a folder, whole
    or not at all; returns how many there are, and of how many classes.

    Links are hard, and symbolic where the file system has no hard ones (another disk).
    Raises DataError for what is in `source`, or where `out` is there; StorageError.
    """
    _, names, files, labels = folder.find(source, "train")
    if out.exists():
        raise DataError(f"{out} is there; choose another folder, or remove it")
    part = out.with_name(f"{out.name}.part")
    chosen = choose(labels, fraction)
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a start that was interrupted
        for name in names:
            (part / "train" / name).mkdir(parents=True)
        for at in chosen:
            name = names[labels[at]]
            _link(files[at], part / "train" / name / os.path.basename(files[at]))
        part.rename(out)
    except OSError as error:
        raise StorageError(
            f"{error.filename or out} cannot be written: {error.strerror or error}"
        ) from error
    return len(chosen), len(names)


def _link(file, place):
    try:
        os.link(file, place)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        os.symlink(os.path.abspath(file), place)
