"""The step of a search or a training compiled for a topology, and what can be read off it.

Place: layer 3, between a step's programs and the verb `plan`. It needs the sizes of the data, not
the data. Nothing it compiles is ever run.
"""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import msgspec

from darts_dist import cluster, compiled, machines, programs, roofline, textdata, textsteps
from darts_dist.genotype import Genotype
from darts_dist.hlo import axes_spanned
from darts_dist.nets.layout import default_layout
from darts_dist.planconfig import AnyPlan, AnyTextPlan, PlanSearch, PlanTextSearch, PlanTextTrain
from darts_dist.plandata import Counts, count
from darts_dist.searchstep import SearchStep
from darts_dist.spaces import table
from darts_dist.steps import Step
from darts_dist.task import check_groups
from darts_dist.training import check_accumulate, make_step

PASSES = {  # FLOPs of a program, over the multiply-adds of its examples' way through the network
    "gradient_params": 6,
    "gradient_both": 6,
    "gradient_alphas": 4,
    "product": 6,
    "evaluate": 2,
}
Runs = Mapping[tuple[str, Any], Mapping[int, int]]
"""(program, shapes of its arguments) -> {length of windows: how often a step of one turn with such
windows runs it}; the length of pictures is 0."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The programs of one turn of a step, read; all numbers of one device.

    programs: a dict each; "runs" is of `Runs`.  collectives: a dict each.  state_bytes: of a seed.
    multiply_adds: of an example, forward.
    """

    mesh: Mapping[str, int]
    programs: list[dict[str, Any]]
    collectives: list[dict[str, Any]]
    state_bytes: int
    multiply_adds: int
    timings: Mapping[str, float]


def lay_out(config: AnyPlan, devices: list[Any]) -> jax.sharding.Mesh:
    """Returns the mesh over devices; ConfigError where config and devices do not fit."""
    mesh = cluster.make_mesh(config.seeds.count, config.mesh.seed, config.mesh.data, devices)
    cluster.local_block(mesh, config.seeds.count, config.data.global_batch)  # checks
    local = config.data.global_batch // mesh.shape["data"]
    check_groups(config, local, mesh.shape["data"])
    return mesh


def compile_for(
    config: AnyPlan, devices: list[Any], machine: machines.Machine, value: Genotype | None
) -> Compiled:
    """Returns what the compiled step of a config tells; value: the genotype that is trained.

    Raises ConfigError where config, data and devices do not fit each other.
    """
    counts, mesh = count(config), lay_out(config, devices)
    step, sizes = _build(config, counts, mesh, machine.platform, value)
    runs = _trace(step, sizes)
    compiling = [one for name, one in step.programs.items() if name != "init"]
    timings = programs.compile_all(lambda: programs.lower_all(compiling))
    adds = _multiply_adds(config, counts, value, step)
    found, spoken = _read(config, step, runs, machine, adds)
    state = _given(step.programs["init"]) // mesh.shape["seed"]
    return Compiled(dict(mesh.shape), found, spoken, state, adds, timings)


def _build(config: AnyPlan, counts: Counts, mesh, platform: str, value: Any):
    """Returns (step, sizes that it is traced for by length of windows, 0 of pictures)."""
    if isinstance(config, PlanSearch | PlanTextSearch):  # of the later epochs: alphas move
        method = msgspec.structs.replace(config.method, warmup_epochs=0)
        config = msgspec.structs.replace(config, method=method)
    if isinstance(config, PlanTextSearch | PlanTextTrain):
        return _build_on_texts(config, counts, mesh, value)
    channels = config.network.in_channels
    rest: dict[str, Any] = {
        "classes": counts.classes,
        "mean": config.data.mean or (0.5,) * channels,
        "std": config.data.std or (0.25,) * channels,
        "epoch_steps": counts.epoch_steps,
        "layout": default_layout(platform),
    }
    if isinstance(config, PlanSearch):
        step = SearchStep(config, mesh, **rest)
    else:
        check_accumulate(config, config.data.global_batch // mesh.shape["data"])
        step = make_step(config, mesh, value, **rest)
    px = config.network.image_px
    return step, {0: (px, px, channels)}


def _build_on_texts(config: AnyTextPlan, counts: Counts, mesh, value: Any):
    rest = counts.classes, counts.epoch_steps
    if isinstance(config, PlanTextSearch):
        step = textsteps.make_search(config, mesh, *rest)
    else:
        step = textsteps.make_training(config, mesh, value, *rest)
    columns = textdata.wide(config.evaluation.batch, mesh.shape["data"])
    return step, {length: ([length], [columns]) for length in counts.lengths}


def _trace(step: Step, sizes: Mapping[int, Any]) -> Runs:
    """Traces a step for windows of each length."""
    found = collections.defaultdict(dict)
    before = {}
    for length, one in sizes.items():
        step.trace(one)
        for name, program in step.programs.items():
            for shapes, runs in program.runs.items():
                found[name, shapes][length] = runs - before.get((name, shapes), 0)
                before[name, shapes] = runs
    return {key: {at: runs for at, runs in of.items() if runs} for key, of in found.items()}


def _multiply_adds(config: AnyPlan, counts: Counts, value: Any, step: Step) -> int:
    """Those of the network for one picture or word, forward."""
    if isinstance(config, PlanSearch):
        return table.multiply_adds_of_search(config, counts.classes)
    if not isinstance(config, PlanTextSearch | PlanTextTrain):
        return table.multiply_adds(config, value, counts.classes)
    shapes = jax.eval_shape(step.one.model.init, jax.random.key(0))[0]
    if isinstance(config, PlanTextTrain):
        products = len(value.recurrent)
    else:
        products = config.network.nodes * (config.network.nodes + 1) // 2
    return sum(table.language_parts(shapes, products).values())


def _read(config: AnyPlan, step: Step, runs: Runs, machine: machines.Machine, adds: int):
    """Returns (programs, collectives) of a compiled step.

    adds: multiply-adds of an example, which count where the compiler's FLOPs are less than half of
    them, or those of one round of a loop.
    """
    found, spoken = [], []
    for name, program in step.programs.items():
        for shapes, executable in program.executables.items():
            told, own = compiled.read(executable), runs[name, shapes]
            expected = PASSES.get(name, 0) * adds * _examples(config, step, name, own)
            trusted = told.flops >= expected / 2 and not (expected and told.looped)
            counted = told.moved and not told.looped
            several = len(program.executables) > 1
            label = f"{name}, {'/'.join(map(str, own))} words" if several else name
            found.append(
                {
                    "program": label,
                    "runs": own,
                    "kernels": told.kernels.total,
                    "compiled": told.kernels.compiled,
                    "unknown_loops": len(told.kernels.unknown_loops),
                    "flops": told.flops if trusted else expected,
                    "flops_from": "compiler" if trusted else "multiply-adds",
                    "bytes": told.moved if counted else told.arguments + 2 * told.written,
                    "bytes_from": "compiler" if counted else "results",
                    "temp_bytes": told.temp,
                    "argument_bytes": told.arguments,
                    "output_bytes": told.output,
                    "kept_bytes": max(told.output - told.alias, 0),
                    "collectives": sum(one.times for one in told.collectives),
                    "collective_s": sum(
                        roofline.collective_s(one, machine) for one in told.collectives
                    ),
                }
            )
            spoken += [_collective(label, own, one, step.mesh, machine) for one in told.collectives]
    return found, spoken


def _examples(config: AnyPlan, step: Step, name: str, runs: Mapping[int, int]) -> int:
    """Examples that one run of a program works on, on a device."""
    replicas = step.mesh.shape["data"]
    if not isinstance(config, PlanTextSearch | PlanTextTrain):
        return config.data.global_batch // replicas
    if name == "evaluate":
        columns = textdata.wide(config.evaluation.batch, replicas)
        return columns // replicas * config.data.window
    return config.data.global_batch // replicas * max(runs)


def _collective(program, runs, one, mesh, machine) -> dict[str, Any]:
    return {
        "program": program,
        "runs": runs,
        "kind": one.kind,
        "bytes": one.bytes,
        "axes": list(axes_spanned(one.groups, mesh.shape)),
        "group": max(map(len, one.groups)),
        "times": one.times,
        "seconds": roofline.collective_s(one, machine),
    }


def _given(program: programs.Program) -> int:
    """Bytes of a traced program's result on all devices, each copy once."""
    assert program.traced is not None, f"{program.name} was never traced"
    leaves = jax.tree.leaves(program.traced.out_info)
    return sum(x.size * x.dtype.itemsize for x in leaves)
