"""Two sides that take turns, and their times: what the benches with a peer share."""

import importlib
import statistics
import time

from darts_dist.errors import ConfigError

TIMES = ("wall_s", "cpu_s")


def torch_peer(module):
    """Returns a module of this folder that needs PyTorch; raises ConfigError if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ConfigError(
            "--peer torch: PyTorch is not installed, and no part of this package; its CPU build: "
            "pip install torch, from the index of CPU wheels that pytorch.org names"
        ) from error


def timed(step, *args):
    """Returns what a step gave, and its time on the clock and on all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    gave = step(*args)
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


def ratio(kind, ours, theirs):
    """Returns PyTorch's time over ours, of the medians, and over the turns the least and most."""
    ours, theirs = ([row[kind] for row in rows] for rows in (ours, theirs))
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    whole = statistics.median(theirs) / statistics.median(ours)
    found = {"torch_over_ours": whole, "least": min(ratios), "most": max(ratios)}
    return {"time": kind} | {name: round(value, 2) for name, value in found.items()}
