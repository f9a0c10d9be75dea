"""What all processes of a run have to have alike, and how they find out before the first step.

Place: layer 0. Whoever differs from process 0 is named on all of them, with what differs; so is who
could not get ready, and who does not see the run folder. They then leave together, so that each
ends with the error itself and not with that of a lost peer. It knows no config: facts are texts.
"""

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from darts_dist import cluster, ending
from darts_dist.errors import (
    BY_CODE,
    ClusterError,
    ConfigError,
    InputError,
    Interrupted,
    StorageError,
)

T = TypeVar("T")
SHOWN = 5  # differences of a process that are told
SEEN_WITHIN_S = 20  # a network file system shows a new file to others late


def check_devices() -> None:
    """Raises a ConfigError, on all processes, when they hold different numbers of devices."""
    owners = [device.process_index for device in jax.devices()]
    counts = [owners.count(process) for process in range(jax.process_count())]
    odd = [process for process, count in enumerate(counts) if count != counts[0]]
    if odd:
        cluster.leave(meet=False)
        raise ConfigError(
            f"{_name(odd)} has {', '.join(str(counts[process]) for process in odd)} devices, and "
            f"process 0 has {counts[0]}; give every process as many"
        )


def check_same(facts: Mapping[str, str]) -> None:
    """Compares facts over all processes; a ConfigError on all of them tells who differs in what."""
    if jax.process_count() == 1:
        return
    text = json.dumps(facts)
    digests = exchange(hashlib.sha256(text.encode()).hexdigest())
    odd = [process for process, found in enumerate(digests) if found != digests[0]]
    if not odd:
        return
    known = [json.loads(one) for one in exchange(text)]
    found = "; ".join(f"process {one}: {_differences(known[0], known[one])}" for one in odd)
    cluster.leave()
    raise ConfigError(
        f"{_name(odd)} differs from process 0; start every process with the same. {found}"
    )


def _differences(first: Mapping[str, str], other: Mapping[str, str]) -> str:
    names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
    told = [
        f"{name} is {other.get(name, 'missing')}, there {first.get(name, 'missing')}"
        for name in names[:SHOWN]
    ]
    return ", ".join([*told, f"and {len(names) - SHOWN} more"][: len(names)])


def _name(processes: list[int]) -> str:
    word = "process" if len(processes) == 1 else "each of processes"
    return f"{word} {', '.join(map(str, processes))}"


def together(prepare: Callable[[], T]) -> T:
    """Returns what `prepare` returns, where it succeeds on all processes.

    Where it fails on some, these raise their own error and the others one of the same exit code
    that names them.  Who is interrupted waits for the others a few seconds only.
    """
    if jax.process_count() == 1:
        return prepare()
    value, own, told = None, None, ""
    try:
        value = prepare()
    except Interrupted:
        cluster.leave(meet=False)
        raise
    except Exception as error:
        own, known = error, ending.classify(error)
        told = f"{known.exit_code if known else 1} {known or repr(error)}"
    failed = {number: text for number, text in enumerate(exchange(told)) if text}
    if not failed:
        return value  # pyright: ignore[reportReturnType]
    cluster.leave()
    if own is not None:
        raise own
    number, text = next(iter(failed.items()))
    code, _, reason = text.partition(" ")
    raise BY_CODE.get(int(code), ClusterError)(f"process {number} cannot start: {reason}")


def check_folder(folder: epath.Path) -> None:
    """Raises an InputError on all processes when one of them sees another run folder.

    Process 0 writes a token there, which the others have to read within SEEN_WITHIN_S.
    """
    if jax.process_count() == 1:
        return
    path = folder / ".token"
    token = exchange(os.urandom(8).hex())[0]
    together(lambda: _write(path, token) if cluster.is_main() else None)
    try:
        together(lambda: None if cluster.is_main() else _read(path, token))
    finally:
        if cluster.is_main():
            path.unlink(missing_ok=True)


def _write(path: epath.Path, token: str) -> None:
    try:
        path.write_text(token)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def _read(path: epath.Path, token: str) -> None:
    deadline = time.monotonic() + SEEN_WITHIN_S
    while True:
        try:
            if path.read_text() == token:
                return
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
        if time.monotonic() > deadline:
            raise InputError(
                f"--workdir {path.parent} is another folder here than on process 0, whose file "
                f"there was not seen within {SEEN_WITHIN_S} s; give all processes one shared folder"
            )
        time.sleep(0.2)


def exchange(text: str) -> list[str]:
    """Returns the texts of all processes, in their order."""
    own = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array([own.size], np.int32))).ravel()
    padded = np.pad(own, (0, int(sizes.max()) + 1 - own.size))
    every = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [bytes(row[:size]).decode() for row, size in zip(every, sizes, strict=True)]


def code_version() -> str:
    """Returns 16 hex digits of a SHA-256 over this package's own sources."""
    root, digest = pathlib.Path(__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
