"""What the passes of a search take of memory, and how long: batches by remat by number format.

Memory is what the compiler plans for a device. On this machine's CPU the pass that takes gradients
is timed too, on random pictures.
"""

import itertools
import statistics
import sys

import numpy as np
import turns
from bench_kernels import PASSES, traced_step
from bench_search import config_of

FACTORS = (1, 2)  # of the batch
FORMATS = ("float32", "bfloat16")


def bench_memory(args):
    """Memory and time of a search's passes by batch, remat and number format; --topology."""
    from darts_dist import cluster, machines, topology

    place = machines.parse(args.topology)
    topology.set_environment(place)
    cluster.start(platform="cpu", cpu_devices=1, cache=False, alone=True)
    device, rows = topology.devices(place)[0], []
    batch = config_of(args, "exact").data.global_batch
    for factor, compute, remat in itertools.product(FACTORS, FORMATS, ("false", "true")):
        knobs = {
            "data.global_batch": factor * batch,
            "precision.compute": compute,
            "network.remat": remat,
        }
        config = config_of(args, "exact", *(f"{knob}={value}" for knob, value in knobs.items()))
        found = _row(config, device, args.repeats if place.kind == "cpu" else 0)
        rows.append(knobs | {name: round(value, 1) for name, value in found.items()})
        print(rows[-1], file=sys.stderr)
    return {"memory": rows}


def _row(config, device, repeats):
    """Returns megabytes of the passes, and milliseconds of the one that takes gradients."""
    from darts_dist import compiled, programs

    step = traced_step(config, [device])
    names = (*PASSES, "init", "prepare") if repeats else PASSES
    own = [step.programs[name] for name in names]
    programs.compile_all(lambda: programs.lower_all(own))
    told = {name: compiled.read(step.programs[name].executable) for name in PASSES}
    row = {f"{name}_temp_mb": one.temp / 1e6 for name, one in told.items()}
    row["whole_mb"] = 1e-6 * max(
        one.arguments + one.temp + one.output - one.alias for one in told.values()
    )
    if repeats:
        row["gradient_ms"] = 1000 * statistics.median(_times(step, config, repeats))
    return row


def _times(step, config, repeats):
    """Returns the seconds of passes over random pictures; the first does not count."""
    import jax

    side, count = config.network.image_px, config.data.global_batch
    draw = np.random.default_rng(0)
    shape = (1, count, side, side, config.network.in_channels)
    batch = {
        name: {
            "image": draw.integers(0, 256, shape, np.uint8),
            "label": draw.integers(0, 10, (1, count), np.int32),
        }
        for name in step.streams
    }
    (state,) = step.init([0])
    (placed,) = step.place_batches(batch)
    ready = step.prepare(state, placed)["train"]
    gradient = step.programs["gradient_both"]

    def one():
        jax.block_until_ready(gradient(state.params, state.stats, state.alphas, ready))

    return [turns.timed(one)["wall_s"] for _ in range(repeats + 1)][1:]
