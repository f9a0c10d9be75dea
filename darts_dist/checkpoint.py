"""Checkpoints: the state and a description of it, saved while the run goes on, verified when read.

Place: layer 2, and the only module that imports orbax. It knows trees of arrays, nothing of
training. A save costs per array, so the leaves are packed (`packing`) into one row of each dtype
for each seed; the crc32 of every row is saved beside it, since the array store does not notice a
flipped bit in its chunks.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import re
import sys
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from darts_dist import cluster, packing
from darts_dist.errors import CheckpointError, StorageError

TEMPORARY = ".orbax-checkpoint-tmp"  # in the name of an unfinished step
AGREED_STEPS = 16  # newest steps that processes compare
LOST = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EACCES}
PLAIN = re.compile(
    r"No space left on device|Read-only file system|Permission denied|Stale file handle"
)
REMEDY = "what was there is kept, and a new start resumes from it"
LOST_TEXT = re.compile(
    r"RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|No space left|Read-only file"
)


class Unusable(Exception):
    """A checkpoint that was complete and cannot be trusted."""


class Checkpoints:
    """The checkpoints of one run. All processes call every method, in the same order."""

    def __init__(
        self,
        folder: str | os.PathLike,
        keep: int = 2,
        warn: Callable[[str], None] | None = None,
        *,
        owned: bool = True,
    ) -> None:
        """Opens the folder, which need not exist; the newest `keep` checkpoints are kept in it.

        warn: gets a line on each checkpoint that cannot be used; the default is stderr of process
        0.  owned: whether this is the run that saves here; a reader removes nothing, since a save
        of another process may be under way.
        """
        quiet()
        text = os.fspath(folder)
        self._folder = epath.Path(text if "://" in text else os.path.abspath(text))
        self._keep, self._owned = keep, owned
        self._warn = warn or _warn
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._saving = False

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, ascending; they are not verified."""
        with _storage_errors(self._folder):
            return [step for step in self._folders() if complete(self._folder / str(step))]

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Starts to save the state and `meta`, JSON-ready, as `step`; returns before it is on disk.

        state: tree of arrays [S, ...], each sharded over "seed". It may be donated afterwards.
        Waits for the save before, whose errors surface here. Raises StorageError.
        """
        self.wait()
        leaves, layout, mesh = packing.describe(state)
        packed = packing.packer(mesh, layout)(leaves)
        record = {
            "step": step,
            "meta": meta,
            "layout": [dataclasses.astuple(leaf) for leaf in layout],
        }
        with _storage_errors(self._folder):
            self._writer.save(
                self._folder / str(step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(
                        {**packed, packing.CRC: packing.sums(packed, mesh)}
                    ),
                    meta=ocp.args.JsonSave({"record": record, packing.CRC: _record_sum(record)}),
                ),
                force=True,
            )
        self._saving = True

    def restore(
        self, like: Any, check: Callable[[dict[str, Any]], None] | None = None
    ) -> tuple[Any, dict[str, Any], int] | None:
        """Returns (state, meta, step) of the newest checkpoint that verifies, None without any.

        like: the state as a tree of jax.ShapeDtypeStruct with NamedShardings, on whatever mesh.
        check: gets meta before the arrays are looked at, and may raise. A checkpoint that does not
        verify is named in a warning and the one before is taken; what is newer than the one taken
        is removed by the run that owns the folder. Raises CheckpointError when `like` does not fit
        (with the leaves), or when there are checkpoints and none of them verifies: they are kept,
        for their owner to decide.
        """
        steps = self._agreed_steps()
        for step in reversed(steps):
            found, problem = None, ""
            try:
                found = self._read(step, like, check)
            except Unusable as error:
                problem = str(error)
            if _everywhere(found is not None):
                self._remove(lambda other, taken=step: other > taken)
                return found
            self._warn(
                f"checkpoint {step} in {self._folder} is broken and left out: "
                f"{problem or 'another process cannot use it'}"
            )
        if steps:
            raise CheckpointError(
                f"none of the {len(steps)} checkpoints in {self._folder} can be used; nothing was "
                f"removed: mend or remove that folder to start from the first step"
            )
        self._remove(lambda other: True)
        return None

    def wait(self) -> None:
        """Waits until the last save is complete, and removes what is older than the kept ones."""
        with _storage_errors(self._folder):
            self._writer.wait_until_finished()
            if self._saving:
                kept = self.steps()[-self._keep :]
                self._remove(lambda step: step < kept[0])
        self._saving = False

    def close(self) -> None:
        """Waits for the last save and ends the writer."""
        self.wait()
        self._writer.close()

    def _folders(self) -> list[int]:
        if not self._folder.exists():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def _agreed_steps(self) -> list[int]:
        """Returns the newest complete steps as process 0 sees them."""
        steps = self.steps()[-AGREED_STEPS:]
        if jax.process_count() == 1:
            return steps
        padded = np.array([-1] * (AGREED_STEPS - len(steps)) + steps, np.int32)
        return [int(step) for step in multihost_utils.broadcast_one_to_all(padded) if step >= 0]

    def _remove(self, unwanted: Callable[[int], bool]) -> None:
        """Removes the unwanted steps and what a killed save left; no save may be under way."""
        if not self._owned:
            return
        with _storage_errors(self._folder):
            if cluster.is_main() and self._folder.exists():
                for path in self._folder.iterdir():
                    step = int(path.name) if path.name.isdecimal() else None
                    if TEMPORARY in path.name or (step is not None and unwanted(step)):
                        path.rmtree()

    def _read(self, step: int, like: Any, check) -> tuple[Any, dict[str, Any], int]:
        folder = self._folder / str(step)
        record = read_record(folder)
        if check is not None:
            check(record["meta"])
        leaves, layout, _ = packing.describe(like)
        _compare(record["layout"], layout, folder)
        packed = read_arrays(folder, layout)
        verify(packed)
        state = packing.unpack(packed, layout, leaves)
        return jax.tree.unflatten(jax.tree.structure(like), state), record["meta"], record["step"]


def complete(folder: epath.Path) -> bool:
    """Returns whether a checkpoint's folder was finished; an empty or half-written one was not."""
    files = ("_CHECKPOINT_METADATA", "state/_METADATA", "meta/metadata")
    return all((folder / file).exists() for file in files)


def read_record(folder: epath.Path) -> dict[str, Any]:
    """Returns {"step", "meta", "layout"} of a checkpoint's folder, its own sum verified."""
    with _unusable(folder):
        tree = json.loads((folder / "meta" / "metadata").read_text())
        record = tree["record"]
        if tree[packing.CRC] != _record_sum(record):
            raise Unusable("the checksum of its description differs")
        record["layout"] = tuple(
            packing.Leaf(name, dtype, tuple(shape), *rest)
            for name, dtype, shape, *rest in record["layout"]
        )
        return record


def _record_sum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def read_arrays(folder: epath.Path, layout: tuple[packing.Leaf, ...]) -> dict[str, np.ndarray]:
    """Returns the packed arrays [S, M] by dtype, and u32[S, D] under "crc32", not yet verified.

    One array at a time and to the host: when a read of several fails, orbax leaves the others
    behind in a closed event loop, which tells so on stderr.
    """
    shapes, packed = packing.shapes(layout), {}
    reader = ocp.PyTreeCheckpointHandler()
    for name, shape in shapes.items():
        with _unusable(folder):
            args = ocp.args.PyTreeRestore(
                item={name: 0},
                restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray)},
                partial_restore=True,
            )
            packed[name] = reader.restore(folder / "state", args=args)[name]
            if packed[name].shape != shape:
                raise Unusable(f"{name} has the shape {packed[name].shape}, wanted {shape}")
    return packed


def verify(packed: dict[str, np.ndarray]) -> None:
    """Raises Unusable that names the rows whose checksum differs."""
    bad = packing.broken_rows(packed)
    if bad:
        raise Unusable(f"the checksum differs for {', '.join(bad)}")


def _compare(
    stored: tuple[packing.Leaf, ...], wanted: tuple[packing.Leaf, ...], folder: epath.Path
) -> None:
    """Raises CheckpointError that names every leaf that differs."""
    before = {leaf.name: f"{leaf.dtype}{list(leaf.shape)}" for leaf in stored}
    now = {leaf.name: f"{leaf.dtype}{list(leaf.shape)}" for leaf in wanted}
    lines = [
        f"{name}: stored {before.get(name, 'nothing')}, this run has {now.get(name, 'nothing')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if not lines and stored != wanted:
        lines = ["the same leaves in another order"]
    if lines:
        raise CheckpointError(
            f"checkpoint {folder} does not fit this run; give the config that made it, or remove "
            f"{folder.parent}. Different: {'; '.join(lines)}"
        )


def _everywhere(fact: bool) -> bool:
    """Returns whether a fact holds on every process."""
    if jax.process_count() == 1:
        return fact
    return bool(np.all(multihost_utils.process_allgather(np.array([fact]))))


def quiet() -> None:
    """Silences what orbax says beside the errors that it raises.

    Its log has every phase of a save and each failure as several tracebacks; array reads and writes
    that are under way when another fails end in a closed event loop, which Python reports as
    unraisable.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if getattr(sys.unraisablehook, "__name__", "") == "_unraisable":
        return
    before = sys.unraisablehook

    def _unraisable(found) -> None:
        if "Event loop is closed" not in str(found.exc_value):
            before(found)

    sys.unraisablehook = _unraisable


def _warn(text: str) -> None:
    if cluster.is_main():
        print(f"warning: {text}", file=sys.stderr)


@contextlib.contextmanager
def _unusable(folder: epath.Path):
    """Turns whatever reading a broken checkpoint raises into Unusable, lost storage apart."""
    try:
        yield
    except Unusable:
        raise
    except Exception as error:
        _raise_if_lost(error, folder)
        # tensorstore tells the way to a damaged place, quoted, and its settings after it.
        reason = str(error).partition(" [tensorstore_spec")[0].rpartition('": ')[2]
        raise Unusable(f"{type(error).__name__}: {' '.join(reason.split())[:200]}") from error


@contextlib.contextmanager
def _storage_errors(folder: epath.Path):
    """Turns what a full, read-only or vanished disk raises into a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}; {REMEDY}") from error
    except (ValueError, RuntimeError) as error:
        _raise_if_lost(error, folder)
        raise


def _raise_if_lost(error: Exception, folder: epath.Path) -> None:
    number = error.errno if isinstance(error, OSError) else None
    if number in LOST or LOST_TEXT.search(str(error)):
        phrase = PLAIN.search(str(error))
        reason = os.strerror(number) if number else (phrase or [str(error).splitlines()[0]])[0]
        raise StorageError(f"{folder}: {reason}; {REMEDY}") from error
