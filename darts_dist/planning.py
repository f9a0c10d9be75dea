"""The step of a search or a training compiled for a topology, and what can be read off it.

Place: layer 3, between a step's programs and the verb `plan`. It needs the sizes of the data, not
the data. Nothing it compiles is ever run.
"""

import dataclasses
import math
from typing import Any

import jax
import msgspec

from darts_dist import cluster, compiled, machines, programs, roofline, topology
from darts_dist.data import pipeline
from darts_dist.genotype import CnnGenotype
from darts_dist.hlo import axes_spanned
from darts_dist.machines import Topology
from darts_dist.nets.layout import default_layout
from darts_dist.planconfig import AnyPlan, PlanSearch
from darts_dist.searchstep import SearchStep
from darts_dist.spaces import table
from darts_dist.steps import Step
from darts_dist.task import check_groups
from darts_dist.training import check_accumulate, make_step

KNOWN = {  # data.kind -> training pictures, test pictures, classes
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "imagenet": (1_281_167, 50_000, 1_000),
    "sample": (4_000, 1_000, 10),
}
NO_PART_OF_A_STEP = ("init", "evaluate")
NOT_KEPT = (*NO_PART_OF_A_STEP, "prepare")  # the last counts as the batch
PASSES = {  # FLOPs of a program, over the multiply-adds of its pictures' way through the network
    "gradient_params": 6,
    "gradient_both": 6,
    "gradient_alphas": 4,
    "product": 6,
    "evaluate": 2,
}


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of a run: pictures that train, steps of an epoch, pictures that an evaluation scores."""

    classes: int
    epoch_steps: int
    scored: int


def count(config: AnyPlan) -> Counts:
    """Returns what follows from the number of pictures; ConfigError where they are too few."""
    data, schedule = config.data, config.schedule
    known, tests, classes = KNOWN.get(data.kind, (0, 0, 0))
    pictures = config.plan.examples or known
    pictures = min(pictures, data.train_limit or pictures)
    if isinstance(config, PlanSearch):
        trained, held = pipeline.halves(pictures, data.train_fraction, "index", data.global_batch)
    else:
        trained = range(int(data.train_fraction * pictures))
        held = range(pictures - len(trained) if data.train_fraction < 1 else tests)
    steps = schedule.steps_per_epoch or max(len(trained) // data.global_batch, 1)
    limit = config.evaluation.examples or len(held)
    return Counts(config.network.classes or classes, steps, min(limit, len(held)))


def build(config: AnyPlan, counts: Counts, place: Topology, value: CnnGenotype | None) -> Step:
    """Returns the step, traced for the topology's devices but not compiled.

    value: the genotype that is trained.  Raises ConfigError where config and devices do not fit.
    """
    mesh = cluster.make_mesh(
        config.seeds.count, config.mesh.seed, config.mesh.data, topology.devices(place)
    )
    cluster.local_block(mesh, config.seeds.count, config.data.global_batch)  # checks
    local = config.data.global_batch // mesh.shape["data"]
    check_groups(config, local, mesh.shape["data"])
    channels = config.network.in_channels
    sizes: dict[str, Any] = {
        "classes": counts.classes,
        "mean": config.data.mean or (0.5,) * channels,
        "std": config.data.std or (0.25,) * channels,
        "epoch_steps": counts.epoch_steps,
        "layout": default_layout(place.platform),
    }
    if isinstance(config, PlanSearch):  # the step of the later epochs, in which alphas move
        method = msgspec.structs.replace(config.method, warmup_epochs=0)
        step = SearchStep(msgspec.structs.replace(config, method=method), mesh, **sizes)
    else:
        assert value is not None, "a training is of a genotype"
        check_accumulate(config, local)
        step = make_step(config, mesh, value, **sizes)
    px = config.network.image_px
    step.trace((px, px, channels))
    return step


def compile_step(step: Step) -> dict[str, float]:
    """Compiles what a step and an evaluation run; returns {"trace_s", "compile_s"}."""
    return programs.compile_all([one for name, one in step.programs.items() if name != "init"])


def multiply_adds(config: AnyPlan, counts: Counts, value: CnnGenotype | None) -> int:
    """Returns those of the network for one picture, forward."""
    if isinstance(config, PlanSearch):
        return table.multiply_adds_of_search(config, counts.classes)
    assert value is not None, "a training is of a genotype"
    return table.multiply_adds(config, value, counts.classes)


def rows(
    config: AnyPlan, step: Step, machine: machines.Machine, adds: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns (programs, collectives) of a compiled step as dicts; all numbers of one device.

    `uses` is how often a step of all seeds runs a program, 0 of an evaluation's.  adds: multiply-
    adds of a picture, which count where the compiler's FLOPs are less than half of them.
    """
    local = config.data.global_batch // step.mesh.shape["data"]
    peak = machine.flops_per_s.get(number_format(config), math.inf)
    found, spoken = [], []
    for name, program in step.programs.items():
        if program.executable is None:
            continue
        told = compiled.read(program.executable)
        uses = 0 if name in NO_PART_OF_A_STEP else step.blocks * program.uses
        expected = PASSES.get(name, 0) * adds * local
        trusted = told.flops >= expected / 2
        flops = told.flops if trusted else expected
        moved = told.moved or told.arguments + 2 * told.written
        times = roofline.times(flops, moved, told.collectives, machine, peak)
        found.append(
            {
                "program": name,
                "uses": uses,
                "kernels": told.kernels.total,
                "compiled": told.kernels.compiled,
                "unknown_loops": len(told.kernels.unknown_loops),
                "flops": flops,
                "flops_from": "compiler" if trusted else "multiply-adds",
                "bytes": moved,
                "bytes_from": "compiler" if told.moved else "results",
                "temp_bytes": told.temp,
                "argument_bytes": told.arguments,
                "output_bytes": told.output,
                "kept_bytes": max(told.output - told.alias, 0),
                "collectives": sum(one.times for one in told.collectives),
                "compute_s": times.compute_s,
                "memory_s": times.memory_s,
                "collective_s": times.collective_s,
                "estimate_s": times.estimate_s,
            }
        )
        spoken += [_collective(name, uses, one, step.mesh, machine) for one in told.collectives]
    return found, spoken


def number_format(config: AnyPlan) -> str:
    """Returns in what products are made: precision.compute, of float32 precision.matmul."""
    compute = config.precision.compute
    return config.precision.matmul if compute == "float32" else compute


def _collective(name, uses, one, mesh, machine) -> dict[str, Any]:
    return {
        "program": name,
        "kind": one.kind,
        "bytes": one.bytes,
        "axes": list(axes_spanned(one.groups, mesh.shape)),
        "group": max(map(len, one.groups)),
        "times": one.times * max(uses, 1),
        "seconds": roofline.collective_s(one, machine),
    }


def memory(config: AnyPlan, step: Step, found: list[dict[str, Any]], room: float) -> dict[str, Any]:
    """Returns what a device's memory holds at its fullest, in bytes, and whether it fits.

    state: of all seeds that the device works on.  batch: pictures of all of them, and those of one
    as the network takes them.  results: of every program, as if kept to the step's end.
    temp: within the program that needs most, activations before all.
    """
    groups, replicas = step.mesh.shape["seed"], step.mesh.shape["data"]
    network, local = config.network, config.data.global_batch // replicas
    picture = network.image_px**2 * network.in_channels + 4  # uint8, and a label
    state, ready = (_given(step.programs[name]) for name in ("init", "prepare"))
    parts = {
        "state": step.blocks * state // groups,
        "batch": step.blocks * len(step.streams) * local * picture + ready // (groups * replicas),
        "results": sum(row["kept_bytes"] for row in found if row["program"] not in NOT_KEPT),
        "temp": max(row["temp_bytes"] for row in found),
    }
    peak = sum(parts.values())
    return {**parts, "peak": peak, "device": int(room), "fits": peak <= room}


def _given(program: programs.Program) -> int:
    """Bytes of a traced program's result on all devices, each copy once."""
    assert program.traced is not None, f"{program.name} was never traced"
    leaves = jax.tree.leaves(program.traced.out_info)
    return sum(x.size * x.dtype.itemsize for x in leaves)
