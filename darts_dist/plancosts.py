"""What compiled programs come to: a step of all seeds, the memory of a device, a whole run; and
programs between two batches that were compiled.

Place: layer 3, over `planning`; numbers in, numbers out.
"""

import math
from collections.abc import Mapping
from typing import Any

from darts_dist import roofline
from darts_dist.machines import Machine
from darts_dist.planconfig import AnyPlan
from darts_dist.plandata import Counts
from darts_dist.planning import Compiled

NO_PART_OF_A_STEP = ("init", "evaluate", "settle")
NOT_KEPT = (*NO_PART_OF_A_STEP, "prepare")  # the last counts as the batch
FITTED = (
    *("flops", "bytes", "temp_bytes", "argument_bytes", "output_bytes", "kept_bytes"),
    *("kernels", "compiled", "collective_s"),
)
WHOLE = ("temp_bytes", "argument_bytes", "output_bytes", "kept_bytes", "kernels", "compiled")
PARTS = ("state", "batch", "results", "temp")


def costs(
    config: AnyPlan, counts: Counts, found: Compiled, machine: Machine, devices: int
) -> dict[str, Any]:
    """Returns {"programs", "step", "memory", "collectives", "run"}: numbers of one device.

    `uses` is how often a step of all seeds runs a program, 0 of an evaluation's; found: of a turn.
    """
    blocks = config.seeds.count // found.mesh["seed"]
    shares = counts.lengths or {0: 1.0}
    peak = machine.flops_per_s.get(number_format(config), math.inf)
    programs = [_row(one, _uses(one, shares, blocks), machine, peak) for one in found.programs]
    step = _whole(programs)
    return {
        "programs": programs,
        "step": step,
        "memory": memory(found, blocks, machine.memory_bytes),
        "collectives": [
            {**_told(one), "times": one["times"] * (_uses(one, shares, blocks) or 1)}
            for one in found.collectives
        ],
        "run": _run(config, counts, blocks, devices, programs, step["estimate_s"]),
    }


def number_format(config: AnyPlan) -> str:
    """Returns in what products are made: precision.compute, of float32 precision.matmul."""
    compute = config.precision.compute
    return config.precision.matmul if compute == "float32" else compute


def memory(found: Compiled, blocks: int, room: float) -> dict[str, Any]:
    """Returns what a device's memory holds at its fullest, in bytes, and whether it fits.

    state: of all seeds that the device works on.  batch: what all of them are given, and what one
    of them takes from that.  results: of every program, as if kept to the step's end.
    temp: within the program that needs most, activations before all.
    """
    kept, batches = {}, []
    for row in found.programs:
        name = _kind(row)
        if name == "prepare":
            batches.append(blocks * row["argument_bytes"] + row["output_bytes"])
        if name not in NOT_KEPT:
            kept[name] = max(kept.get(name, 0), row["kept_bytes"])
    parts = {
        "state": blocks * found.state_bytes,
        "batch": max(batches),
        "results": sum(kept.values()),
        "temp": max(row["temp_bytes"] for row in found.programs),
    }
    peak = sum(parts.values())
    return {**parts, "peak": peak, "device": int(room), "fits": peak <= room}


def _uses(one: Mapping[str, Any], shares: Mapping[int, float], blocks: int) -> float:
    """How often a step runs a program: a whole number where windows have one length."""
    if _kind(one) in NO_PART_OF_A_STEP:
        return 0
    uses = blocks * sum(shares[length] * runs for length, runs in one["runs"].items())
    return round(uses) if abs(uses - round(uses)) < 1e-9 else uses


def _kind(one: Mapping[str, Any]) -> str:
    """The name of a program, without the length of the windows that it is for."""
    return one["program"].partition(",")[0]


def _told(one: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key != "runs"}


def _row(one: Mapping[str, Any], uses: float, machine: Machine, peak: float) -> dict[str, Any]:
    """A program with its uses and times."""
    times = roofline.times(one["flops"], one["bytes"], one["collective_s"], machine, peak)
    first, *rest = _told(one).items()
    return {
        **dict([first]),
        "uses": uses,
        **dict(rest),
        "compute_s": times.compute_s,
        "memory_s": times.memory_s,
        "estimate_s": times.estimate_s,
        "limited_by": times.limited_by,
    }


def _whole(programs: list[dict[str, Any]]) -> dict[str, Any]:
    """What one step of all seeds comes to on a device."""
    keys = ("kernels", "flops", "bytes", "collectives")
    seconds = ("compute_s", "memory_s", "collective_s", "estimate_s")
    return {key: sum(row["uses"] * row[key] for row in programs) for key in (*keys, *seconds)}


def _run(config, counts, blocks, devices, programs, step_s) -> dict[str, Any]:
    """What all epochs of all seeds come to, evaluations included."""
    epochs, every = config.schedule.epochs, config.evaluation.every_epochs
    steps = epochs * counts.epoch_steps
    (evaluation,) = (row for row in programs if row["program"] == "evaluate")
    scored = -(-epochs // every) * counts.evaluation_batches * blocks
    seconds = steps * step_s + scored * evaluation["estimate_s"]
    hours, examples = seconds / 3600, config.seeds.count * counts.step_examples
    return {
        "epochs": epochs,
        "steps": steps,
        "evaluated_batches": scored,
        "unit": counts.unit,
        "examples_per_s": examples / step_s if step_s else None,
        "hours": hours,
        "device_hours": hours * devices,
        "device_hours_of_a_seed": hours * devices / config.seeds.count,
    }


def between(low: Compiled, high: Compiled, share: float) -> Compiled:
    """Returns the programs at `share` of the way from those of one batch to those of another.

    Sizes lie on a straight line, which may be followed further; never below 0.
    """

    def one(near, far):
        line = {key: max(near[key] + share * (far[key] - near[key]), 0) for key in FITTED}
        return {**near, **line, **{key: round(line[key]) for key in WHOLE}}

    rows = [one(*pair) for pair in zip(low.programs, high.programs, strict=True)]
    state = round(low.state_bytes + share * (high.state_bytes - low.state_bytes))
    return Compiled(low.mesh, rows, low.collectives, state, low.multiply_adds, {})
