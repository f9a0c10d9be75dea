"""Reads texts from disk into numbers of words, checked.

A line is its words and an end mark; nothing is lowered, split or replaced otherwise. How a text is
cut into columns and windows is `windows`' business. Letters: R rows (time), B columns.
"""

import collections
import dataclasses
import io
import os
import pathlib
from importlib import resources

import numpy as np

from darts_dist.errors import ConfigError, DataError

SPLITS = ("train", "valid", "test")
END, UNKNOWN = "<eos>", "<unk>"
NEW_WORDS = ("add", "unknown", "stop")
GET = "`prepare_data.py download wikitext2 FOLDER` writes such a folder"


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Three texts as numbers of words.

    words: all there are, in the order of their numbers.  train, valid, test: int32[count].
    """

    words: tuple[str, ...]
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def read(path: str | pathlib.Path, *, new_words: str = "add") -> Corpus:
    """Returns the Corpus of a folder with train.txt, valid.txt and test.txt, UTF-8.

    Words are numbered as they first appear, in train, then valid, then test. new_words: what
    becomes of a word that train lacks: "add" gives it a number of its own, which nothing ever
    trains (the original's way); "unknown" takes it for <unk>, which train must have; "stop" is a
    DataError.  Raises DataError for what is on disk.
    """
    if not str(path):
        raise DataError(f"data.path is empty; data.kind=text wants a folder with {_files()}; {GET}")
    return _number(_read_folder(pathlib.Path(os.path.expanduser(path))), new_words)


def load_sample(*, new_words: str = "add") -> Corpus:
    """Returns the Corpus that ships with the package: an excerpt of WikiText-2.

    Raises DataError when a packaged file is missing or damaged.
    """
    folder = resources.files("darts_dist.data").joinpath("samples/wikitext2")
    try:
        texts = {split: folder.joinpath(f"{split}.txt").read_bytes() for split in SPLITS}
    except OSError as error:
        raise DataError(
            f"the packaged sample {error.filename} cannot be read; install the package again"
        ) from error
    return _number({f"{folder}/{split}.txt": text for split, text in texts.items()}, new_words)


def columns(
    tokens: np.ndarray, count: int, *, name: str = "a text", key: str = "data.global_batch"
) -> np.ndarray:
    """Returns a text as `count` columns side by side, int32[R, B], each a contiguous part of it.

    What does not fill a row is left out.  Raises ConfigError for a text of fewer than two rows.
    name, key: what it calls the text, and the knob that `count` is from.
    """
    rows = len(tokens) // count
    if rows < 2:
        raise ConfigError(
            f"{name} of {len(tokens)} words does not fill two rows of {count} columns; use a "
            f"longer text, or {key} of at most {len(tokens) // 2}"
        )
    return np.ascontiguousarray(tokens[: rows * count].reshape(count, rows).T)


def _files() -> str:
    return ", ".join(f"{split}.txt" for split in SPLITS)


def _read_folder(folder: pathlib.Path) -> dict[str, bytes]:
    try:
        if not folder.is_dir():
            found = "is not a folder" if folder.exists() else "does not exist"
            raise DataError(f"{folder} {found}; data.path wants a folder with {_files()}; {GET}")
        missing = [f"{split}.txt" for split in SPLITS if not (folder / f"{split}.txt").is_file()]
        if missing:
            others = sorted(file.name for file in folder.iterdir())[:5]
            raise DataError(
                f"{folder} has no {', '.join(missing)}; found {', '.join(others) or 'nothing'}; "
                f"data.kind=text wants {_files()}; {GET}"
            )
        return {f"{folder / split}.txt": (folder / f"{split}.txt").read_bytes() for split in SPLITS}
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be read: {error.strerror or error}"
        ) from error


def _number(files: dict[str, bytes], new_words: str) -> Corpus:
    """Returns the corpus of three files, in the order of SPLITS; files: bytes by name."""
    if new_words not in NEW_WORDS:
        raise ConfigError(f'new_words="{new_words}" is unknown; known are {", ".join(NEW_WORDS)}')
    numbers: dict[str, int] = collections.defaultdict(lambda: len(numbers))
    texts = []
    for name, data in files.items():
        if texts and new_words != "add":
            texts.append(_known(name, data, dict(numbers), new_words))
        else:
            texts.append([numbers[word] for line in _lines(name, data) for word in line])
    arrays = [np.array(text, np.int32) for text in texts]
    return Corpus(tuple(numbers), *arrays)


def _known(name, data, numbers, new_words) -> list[int]:
    """Returns the numbers of a text's words, where training has settled which there are."""
    out = []
    for at, line in enumerate(_lines(name, data), 1):
        for word in line:
            number = numbers.get(word)
            if number is None:
                if new_words == "stop":
                    raise DataError(
                        f"{name}: line {at}: train.txt has no {word!r}; wanted its words only, or "
                        'new words by "add" or "unknown"'
                    )
                if UNKNOWN not in numbers:
                    raise DataError(
                        f"{name}: line {at}: train.txt has no {word!r}, and no {UNKNOWN} to take "
                        'it for; put one in, or have new words by "add"'
                    )
                number = numbers[UNKNOWN]
            out.append(number)
    return out


def _lines(name, data) -> list[list[str]]:
    """Returns the words of each line, its end mark last."""
    try:
        text = data.decode("utf-8-sig")  # some editors put a mark of UTF-8 in front
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}: line {line} is not UTF-8 text; wanted words between spaces, in UTF-8"
        ) from None
    lines = [[*line.split(), END] for line in io.StringIO(text, newline=None)]
    if all(len(line) == 1 for line in lines):
        raise DataError(f"{name} holds no words; wanted words between spaces, in UTF-8")
    return lines
