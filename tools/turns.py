"""Two sides that take turns, and their times: what the benches with a peer share."""

import contextlib
import importlib
import multiprocessing
import statistics
import time

from darts_dist.errors import ConfigError

TIMES = ("wall_s", "cpu_s")
MISSING = "no PyTorch"


class Apart:
    """A peer in a process of its own, as its users run it: neither side's threads and memory are in
    the way of the other's.

    module: of this folder, with a class `Peer`.  Arrays go there and numbers come back.
    Raises ConfigError where PyTorch is missing.
    """

    def __init__(self, module):
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, module), daemon=True)
        self.process.start()
        there.close()
        if self._answer() == MISSING:
            raise ConfigError(
                "--peer torch: PyTorch is not installed, and no part of this package; its CPU "
                "build: pip install torch, from the index of CPU wheels that pytorch.org names"
            )

    def call(self, method, *args, **named):
        """Returns what a method of the peer returns, with the time that it took there (`timed`)."""
        self.pipe.send((method, args, named))
        return self._answer()

    def _answer(self):
        try:
            return self.pipe.recv()
        except EOFError:
            raise RuntimeError("the peer's process has ended; its traceback is above") from None


def _serve(pipe, module):
    try:
        peer = importlib.import_module(module).Peer()
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        pipe.send(MISSING)
        return
    pipe.send("")
    with contextlib.suppress(EOFError):  # the other side has ended
        while True:
            method, args, named = pipe.recv()
            pipe.send(timed(getattr(peer, method), *args, **named))


def timed(step, *args, **named):
    """Returns what a step gave, and its time on the clock and on all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    gave = step(*args, **named)
    times = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    return {"gave": gave, **times}


def check(turn, names, closeness, ours, theirs):
    """Raises AssertionError where numbers of both sides differ by more than a relative error."""
    for what, close, one, other in zip(names, closeness, ours, theirs, strict=True):
        if not abs(one - other) <= close * abs(other):
            raise AssertionError(f"turn {turn}: {what} {one}, and PyTorch's {other}")


def summary(name, rows):
    """Returns the median times of the rows of one side, the least and the most."""
    seen = {kind: sorted(row[kind] for row in rows) for kind in TIMES}
    found = {
        "wall_s": statistics.median(seen["wall_s"]),
        "least_s": seen["wall_s"][0],
        "most_s": seen["wall_s"][-1],
        "cpu_s": statistics.median(seen["cpu_s"]),
    }
    return {"step": name} | {key: round(value, 5) for key, value in found.items()}


def ratios(pairs):
    """Returns {"spread": `ratio` of both times of each step, "ratios": {step: that on the clock}}.

    pairs: step -> (rows of ours, rows of theirs).
    """
    rows = [{"step": step} | ratio(kind, *pair) for step, pair in pairs.items() for kind in TIMES]
    clock = {row["step"]: row["torch_over_ours"] for row in rows if row["time"] == "wall_s"}
    return {"spread": rows, "ratios": clock}


def ratio(kind, ours, theirs):
    """Returns PyTorch's time over ours, of the medians, and over the turns the least and most."""
    ours, theirs = ([row[kind] for row in rows] for rows in (ours, theirs))
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    whole = statistics.median(theirs) / statistics.median(ours)
    found = {"torch_over_ours": whole, "least": min(ratios), "most": max(ratios)}
    return {"time": kind} | {name: round(value, 2) for name, value in found.items()}
