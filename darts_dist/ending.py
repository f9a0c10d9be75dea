"""How a process ends: whatever was raised becomes one line on stderr and an exit code.

Every main of the project, the command line and the tools, ends through `finish`. The codes are
those of `errors`; nothing else in the project catches errors that it cannot handle.
"""

import contextlib
import errno
import io
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from etils import epath

from darts_dist.errors import ClusterError, DartsError, InputError, Interrupted, StorageError

DISK_ERRNO = {errno.ENOSPC, errno.EROFS, errno.EDQUOT}
UNREACHED_ERRNO = {
    *(errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ETIMEDOUT),
    *(socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_NONAME),  # of names, and below zero
}
STORAGE_ERRNO = DISK_ERRNO | UNREACHED_ERRNO
STORAGE_SIGNS = ("No space left on device", "Read-only file system", "Disk quota exceeded")
UNREACHED_SIGNS = ("Cannot connect to host", "Connection timeout to host")  # of aiohttp
MEMORY_SIGNS = ("out of memory", "failed to allocate request")  # the second of XLA for GPUs
LESS_MEMORY = (
    "lower data.global_batch or network.channels, or set network.remat=true or "
    "precision.compute=bfloat16"
)
LOST_PEER_SIGNS = (
    "gloo",
    "connection closed by peer",
    "connection reset by peer",
    "coordination service",
    "coordinationservice",
    "deadline_exceeded",
    "heartbeat",
)


def finish(function: Callable[[], int]) -> NoReturn:
    """Ends the process with the code of `function`, and at once.

    Interpreter exit would run the barrier that jax.distributed leaves in atexit, in which a process
    that failed waits for peers that wait for it; so this flushes and leaves by `os._exit`. SIGTERM
    interrupts as Ctrl-C does, until `function` does something else with it.
    """
    _open_streams()
    # Without a network these tell each error as several tracebacks, before it is raised.
    for library in ("gcsfs", "google.auth", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    sys.unraisablehook = _interrupt_again
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore SIGINT
            signal.signal(number, signal.default_int_handler)
        code = outcome(function)
    except KeyboardInterrupt:  # once more, while the first was told
        code = Interrupted.exit_code
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a reader that has gone, `| head`: what it wanted it has
            continue
    os._exit(code)


@contextlib.contextmanager
def uninterrupted():
    """Holds Ctrl-C and SIGTERM back for a while: libraries do not survive one while they load."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt_again(found: Any) -> None:
    """Repeats an interruption that struck where nobody can catch it: in a collector's callback."""
    if isinstance(found.exc_value, KeyboardInterrupt):
        again = (threading.main_thread().ident, signal.SIGINT)
        threading.Timer(0.05, signal.pthread_kill, again).start()
    else:
        sys.__unraisablehook__(found)


def _open_streams() -> None:
    """Gives a closed stream somewhere to write to, lest the next open file gets its number; what a
    stream's encoding has no letters for is written as escapes.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r+"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def outcome(
    function: Callable[[], int], *, workdir: str = "", option: str = "", debug: bool = False
) -> int:
    """Returns what `function` returns, or the exit code of what it raised, told in one line.

    workdir: the run folder, where the traceback of an internal error goes.  option: what a new
    start needs on its command line to find that folder.  debug: every traceback goes to stderr too.
    """
    try:
        return function()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        known = classify(error)
        if debug:
            traceback.print_exc()
        if known is not None:
            kind = "" if isinstance(known, Interrupted) else "error: "
            resumes = workdir and isinstance(known, Interrupted | ClusterError)
            again = f"; start again{option and f' with {option}'} and it goes on" if resumes else ""
            _say(f"{kind}{known}{again}")
            return known.exit_code
        place = _write_traceback(workdir)
        if not place and not debug:
            traceback.print_exc()
        where = f"traceback in {place}" if place else "traceback above"
        _say(f"internal error: {type(error).__name__}: {error}; {where}")
        return 1


def classify(error: BaseException) -> DartsError | None:
    """Returns the error as a user is told of it, or None for a mistake of this program.

    A full disk and a lost peer come up as different classes in orbax, tensorstore, Gloo and jax,
    often as the cause of another error; their text is what they have in common.
    """
    if isinstance(error, DartsError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    if isinstance(error, BrokenPipeError):
        return Interrupted("nobody reads the output any more")
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for one in chain:
        if isinstance(one, DartsError):
            return one
        number = one.errno if isinstance(one, OSError) else None
        text = str(one)
        if any(sign in text for sign in UNREACHED_SIGNS):
            return StorageError(
                f"the store cannot be reached, what was there is kept: {_first_line(text)}; look "
                f"at the network and start again"
            )
        if number in DISK_ERRNO or any(sign in text for sign in STORAGE_SIGNS):
            return StorageError(f"storage failed, what was there is kept: {_first_line(text)}")
        full = any(sign in text.lower() for sign in MEMORY_SIGNS)
        if isinstance(one, MemoryError) or full:
            found = _first_line(text).rstrip(".") or "Python has none left"
            return InputError(f"the memory is too small: {found}; {LESS_MEMORY}")
        lost = any(sign in text.lower() for sign in LOST_PEER_SIGNS)
        if lost and isinstance(one, ValueError | RuntimeError):
            found = _first_line(text)
            return ClusterError(f"the cluster failed: {found}")
    return None


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 300 else f"{line[:300]} ..."


def _say(text: str) -> None:
    line = " ".join(text.splitlines())
    line = "".join(one if one.isprintable() else repr(one)[1:-1] for one in line)
    with contextlib.suppress(OSError):  # the code still tells
        print(f"darts-dist: {line}", file=sys.stderr, flush=True)


def _write_traceback(workdir: str) -> str:
    """Returns the log to which the traceback was added, or "" where that cannot be."""
    if not workdir:
        return ""
    log = epath.Path(workdir) / "log.txt"
    try:
        before = log.read_text() if log.exists() else ""
        log.write_text(f"{before}{traceback.format_exc()}")  # a bucket knows no append
    except OSError:
        return ""
    return str(log)
