"""Numbers on their way to people: a line an epoch, alphas.npz, the log, the progress.

Place: layer 2. It writes what it is given, on process 0 only, and computes nothing; TensorBoard's
files are `events`'. No file is appended to or renamed where the run folder is not local. Whatever
cannot be written is a StorageError. Letters: `S` seeds, `E` edges of a cell, `K` operations.
"""

import contextlib
import io
import json
import math
import os
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from darts_dist.errors import StorageError

LINE_EVERY_S = 10  # seconds between two lines of progress where there is no terminal
REMOTE_LOG_EVERY_S = 30  # seconds between two writings of a log that is not on a local disk


class Recorder:
    """Records one run in its folder; on processes other than the main one it does nothing."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        main: bool,
        seeds: Sequence[int],
        total_steps: int,
        lines_file: str = "genotypes.jsonl",
    ) -> None:
        """Opens the folder, which is made when it is not there.

        seeds: their numbers, in the order of the arrays. total_steps: where the progress ends.
        lines_file: what gets a line for each seed and epoch; `lines` holds the same (on the main
        process).
        """
        self._folder, self._main = epath.Path(workdir), main
        self._seeds, self._total = tuple(seeds), total_steps
        self._lines_file = self._folder / lines_file
        self.lines: list[dict[str, Any]] = []
        self._alphas: dict[int, dict[str, np.ndarray]] = {}  # by epoch
        self._bar, self._said_s = None, 0.0
        self._log = _Log(self._folder / "log.txt") if main else None

    def progress(self, step: int, text: str) -> None:
        """Shows how far the run is: a bar on a terminal, elsewhere a line every LINE_EVERY_S."""
        if not self._main:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=self._total, initial=step, unit="step", dynamic_ncols=True)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._said_s >= LINE_EVERY_S or step == self._total:
            self._said_s = time.monotonic()
            self.message(f"step {step}/{self._total}  {text}")

    def message(self, text: str) -> None:
        """Writes a line to stdout and to log.txt."""
        if self._log is None:
            return
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stdout)
        self._log.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def epoch(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Adds lines, one for each seed, to the file of lines; each has "epoch" and "step"."""
        if self._main:
            self.lines += [dict(line) for line in lines]
            self._write_lines()

    def alphas(self, epoch: int, values: Mapping[str, Any]) -> None:
        """Adds the alphas [S, E, K] of an epoch, by cell, to alphas.npz; drops later epochs.

        The file has an array [epochs, S, E, K] for each cell, and "epochs" and "seeds".
        """
        if self._main:
            self._alphas = {number: old for number, old in self._alphas.items() if number < epoch}
            self._alphas[epoch] = {cell: np.asarray(value) for cell, value in values.items()}
            self._write_alphas()

    def drop_after(self, step: int) -> None:
        """Takes up what an interrupted run left, and drops what it wrote after `step`."""
        if not self._main:
            return
        with storage(self._folder):
            before = _read_lines(self._lines_file)
            self._alphas = _read_alphas(self._folder / "alphas.npz")
        self.lines = [line for line in before if line["step"] <= step]
        first = min((line["epoch"] for line in before if line["step"] > step), default=None)
        if first is not None:
            self._write_lines()
            self._alphas = {epoch: old for epoch, old in self._alphas.items() if epoch < first}
            self._write_alphas()

    def close(self) -> None:
        """Writes out and closes everything."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._log is not None:
            self._log.flush()

    def _write_lines(self) -> None:
        text = "".join(to_json(line) + "\n" for line in self.lines)
        write_whole(self._lines_file, text)

    def _write_alphas(self) -> None:
        epochs = sorted(self._alphas)
        cells = {cell for epoch in epochs for cell in self._alphas[epoch]}
        arrays: dict[str, Any] = {
            cell: np.stack([self._alphas[epoch][cell] for epoch in epochs])
            for cell in sorted(cells)
        }
        content = io.BytesIO()
        np.savez(content, epochs=np.array(epochs), seeds=np.array(self._seeds), **arrays)
        write_whole(self._folder / "alphas.npz", content.getvalue())


class _Log:
    """A text file that grows: appended to on a local disk, elsewhere written whole now and then."""

    def __init__(self, path: epath.Path) -> None:
        self._path = path
        self._whole: list[str] | None = None
        self._written_s = 0.0
        with storage(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not _is_local(path):
                self._whole = [path.read_text()] if path.exists() else []

    def add(self, text: str) -> None:
        if self._whole is None:
            with storage(self._path), open(self._path, "a", encoding="utf-8") as file:
                file.write(text)
            return
        self._whole.append(text)
        if time.monotonic() - self._written_s >= REMOTE_LOG_EVERY_S:
            self.flush()

    def flush(self) -> None:
        if self._whole is not None:
            self._written_s = time.monotonic()
            write_whole(self._path, "".join(self._whole))


def to_json(value: Any, indent: int | None = None) -> str:
    """Returns `value` as JSON that any reader takes: numbers that are not finite become null.

    A loss may become one, and Python's own form of it, NaN or Infinity, is no JSON.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file, text as UTF-8; on a local disk whole or not at all. StorageError."""
    path = epath.Path(path)
    data = content.encode() if isinstance(content, str) else content
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_local(path):
            path.write_bytes(data)
            return
        new = f"{os.fspath(path)}.{os.getpid()}.new"
        try:
            with open(new, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.remove(new)
            raise


@contextlib.contextmanager
def storage(path: str | os.PathLike):
    """Turns an OSError inside into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        found = f"{os.fspath(path)} cannot be written or read: {reason}"
        raise StorageError(f"{found}; what was there is kept, mend it and start again") from error


def _is_local(path: os.PathLike) -> bool:
    return "://" not in os.fspath(path)


def _read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """Returns the lines of a file up to the first that is not whole."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            lines.append({"epoch": line["epoch"], "step": line["step"], **line})
        except (ValueError, KeyError, TypeError):
            break
    return lines


def _read_alphas(path: epath.Path) -> dict[int, dict[str, np.ndarray]]:
    """Returns the alphas of alphas.npz by epoch and cell; nothing when the file is not whole."""
    if not path.exists():
        return {}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile):
        return {}
    epochs = arrays.pop("epochs", np.array([], int))
    arrays.pop("seeds", None)
    return {
        int(epoch): {cell: values[place] for cell, values in arrays.items()}
        for place, epoch in enumerate(epochs)
    }
