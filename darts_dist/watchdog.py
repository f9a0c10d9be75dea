"""The watchdog: a thread that ends a process whose work stands still, and says so in one line.

Place: layer 0, standard library only. A peer that is stopped, a link that is cut or storage that
never answers shows as a call that does not return; the process then ends with code 4, and a new
start resumes. What may take how long is told by `enter`, phase by phase. It also gives jax's own
way out, an abort where the coordinator or a peer went silent, that exit code.
"""

import ctypes
import dataclasses
import math
import os
import signal
import threading
import time

from darts_dist.errors import ClusterError

TICK_S = 0.25
FREE_STEPS = 2  # the first one, and the one that waits for it
PHASES = {
    "join": ("the other processes have not come", "cluster.initialization_timeout_s"),
    "compile": ("compiling and the first steps have not ended", "cluster.compile_timeout_s"),
    "step": ("a step has not ended", "cluster.step_timeout_s"),
    "meet": ("a peer has not come as far as this step", "cluster.step_timeout_s"),
    "evaluation": ("an evaluation has not ended", "cluster.evaluation_timeout_s"),
    "save": ("saving has not ended", "cluster.save_timeout_s"),
}
"""A phase's name: what it is when it stalls, and the knob of its limit."""

UNEVEN = ("join", "compile", "evaluation", "save")
"""Phases in which one process may have more to do than another."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Seconds that a phase may take, 0 for any time.

    step: or `factor` times the slowest step so far, whichever is longer.
    """

    join: float = 0
    compile: float = 0
    step: float = 0
    evaluation: float = 0
    save: float = 0
    factor: float = 10


class Watchdog:
    """Counts down the time of the phase that the run is in; a name of PHASES, or "" for none.

    It is meant never to end a healthy run, however slow. A peer may use up its own limit in an
    uneven phase before it comes to where this process waits, so what is left of that one is added
    to the next phase, and to all but steps until the processes have met. A peer may be `factor`
    times slower, so where they meet it is given the time of the steps since the last meeting, that
    many times. And only time in which this process ran counts: to be paused as a whole and
    continued is no stall.
    """

    def __init__(self, limits: Limits, on: bool = True) -> None:
        """Starts the thread, which watches nothing yet; off, it never will."""
        self._limits, self._lock = limits, threading.Lock()
        self._phase, self._entered_s = "", 0.0
        self._limit_s = self._left_s = math.inf
        self._behind_s = 0.0  # for which a peer may still be in an uneven phase
        self._steps = self._since_meeting = 0
        self._step_began_s: float | None = None
        self._slowest_s = 0.0
        self._closed = threading.Event()
        if on:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def enter(self, phase: str) -> None:
        """Starts the time of a phase, which ends that of the one before."""
        with self._lock:
            self._count_step(phase)
            if phase == "step" and self._steps < FREE_STEPS:
                return  # compiling goes on
            if self._phase in UNEVEN:
                self._behind_s = self._left_s
            elif self._phase == "meet":
                self._behind_s = 0.0
            late = self._phase in UNEVEN or phase != "step"
            self._limit_s = self._limit(phase) + (self._behind_s if late else 0.0)
            self._left_s = self._limit_s + TICK_S  # the next tick counts from before this moment
            self._phase = phase
            if phase != "step":
                self._since_meeting = 0

    def _count_step(self, phase: str) -> None:
        now = time.monotonic()
        if self._step_began_s is not None:
            self._steps += 1
            self._since_meeting += 1
            self._slowest_s = max(self._slowest_s, now - self._step_began_s)
        self._step_began_s = now if phase == "step" else None

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()

    def _limit(self, phase: str) -> float:
        limit_s = getattr(self._limits, "step" if phase == "meet" else phase) if phase else 0
        if not limit_s:
            return math.inf
        steps = 1 if phase == "step" else max(self._since_meeting, 1)
        apart_s = self._limits.factor * self._slowest_s * steps
        return limit_s + apart_s if phase in UNEVEN else max(limit_s, apart_s)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._closed.wait(TICK_S):
            now = time.monotonic()
            with self._lock:
                ran_s = min(now - before, 2 * TICK_S)
                self._left_s -= ran_s
                self._behind_s = max(self._behind_s - ran_s, 0.0)
                if self._left_s <= 0:
                    what, knob = PHASES[self._phase]
                    end(
                        f"stalled: {what} within {self._limit_s:.3g} s ({knob}); a peer, the "
                        "network or the storage hangs; start again and it resumes"
                    )
            before = now


def end(text: str) -> None:
    """Ends the process at once as one of a cluster that failed, told in one line on stderr."""
    try:
        os.write(2, f"darts-dist: error: {text}\n".encode())
    finally:
        os._exit(ClusterError.exit_code)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(_number: int) -> None:
    end("the cluster failed, as the lines above say; start again and it resumes")


def catch_aborts() -> None:
    """Makes an abort of this process, jax's answer to a lost coordinator, end it with code 4.

    jax has no public way to be told first (0.10, 0.12), and a signal handler of Python's would
    never run, since abort() does not return to the interpreter.
    """
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, type(_aborted))
    libc.signal(signal.SIGABRT, _aborted)
