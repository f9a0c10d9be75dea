"""The verb `plan`: what a search or training takes and costs on a machine that is not there.

Place: layer 4: config and topology -> compiled step -> figures, as one dict and as tables.
"""

import json
from typing import Any

import msgspec

from darts_dist import cluster, machines, opening, planning, roofline, topology
from darts_dist import config as configs
from darts_dist.errors import StorageError
from darts_dist.planconfig import AnyPlan, PlanSearch, PlanTrain
from darts_dist.train import load_genotype


def run(config: AnyPlan, workdir: str, debug: bool) -> dict[str, Any]:
    """Returns the plan of a config; workdir: where `plan.json` goes, "": nowhere."""
    del debug
    value = load_genotype(config) if isinstance(config, PlanTrain) else None
    counts = planning.count(config)
    place = machines.parse(config.topology)
    topology.set_environment(place)
    cluster.start(
        platform="cpu",
        cpu_devices=place.count if place.kind == "cpu" else 0,
        float64=config.precision.compute == "float64",
        matmul=config.precision.matmul,
        deterministic=config.precision.deterministic,
        cache=config.compile.cache,
        cache_dir=config.compile.cache_dir,
        alone=True,
    )
    machine = machines.machine_of(place)
    step = planning.build(config, counts, place, value)
    timings = planning.compile_step(step)
    adds = planning.multiply_adds(config, counts, value)
    programs, collectives = planning.rows(config, step, machine, adds)
    whole = _whole(programs)
    result = {
        "verb": "plan",
        "topology": place.text,
        "devices": place.count,
        "mesh": dict(step.mesh.shape),
        "seeds": config.seeds.count,
        "blocks": step.blocks,
        "global_batch": config.data.global_batch,
        "local_batch": config.data.global_batch // step.mesh.shape["data"],
        "number_format": planning.number_format(config),
        "multiply_adds": adds,
        "programs": programs,
        "step": whole,
        "memory": planning.memory(config, step, programs, machine.memory_bytes),
        "collectives": collectives,
        "run": _run(config, counts, step.blocks, place.count, programs, whole["estimate_s"]),
        "machine": msgspec.to_builtins(machine),
        "notes": _notes(config, machine, programs),
        "config_hash": configs.config_hash(config),
        "versions": opening.versions(),
        "timings": timings,
    }
    if config.plan.largest_batch:
        twice = config.data.global_batch * 2
        data = msgspec.structs.replace(config.data, global_batch=twice)
        larger = msgspec.structs.replace(config, data=data)
        step = planning.build(larger, counts, place, value)
        planning.compile_step(step)
        programs, _ = planning.rows(larger, step, machine, adds)
        second = planning.memory(larger, step, programs, machine.memory_bytes)
        result["largest_batch"] = largest(result, second)
    if workdir:
        _write(workdir, result)
    return result


def largest(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Returns the largest global batch on a straight line through the memory of one and of two.

    0 where even the smallest does not fit, None where memory does not grow.
    """
    batch, replicas, memory = first["global_batch"], first["mesh"]["data"], first["memory"]
    growth = (second["peak"] - memory["peak"]) / batch
    if growth <= 0:
        return {"fitted": None, "from": [batch, 2 * batch]}
    most = batch + (memory["device"] - memory["peak"]) / growth
    return {"fitted": max(int(most // replicas) * replicas, 0), "from": [batch, 2 * batch]}


def _whole(programs: list[dict[str, Any]]) -> dict[str, Any]:
    """What one step of all seeds comes to on a device."""
    keys = ("kernels", "flops", "bytes", "collectives")
    seconds = ("compute_s", "memory_s", "collective_s", "estimate_s")
    return {key: sum(row["uses"] * row[key] for row in programs) for key in (*keys, *seconds)}


def _run(config, counts, blocks, devices, programs, step_s) -> dict[str, Any]:
    """What all epochs of all seeds come to, evaluations included."""
    epochs, every = config.schedule.epochs, config.evaluation.every_epochs
    steps = epochs * counts.epoch_steps
    batches = -(-counts.scored // config.data.global_batch)
    (evaluation,) = (row for row in programs if row["program"] == "evaluate")
    scored = -(-epochs // every) * batches * blocks
    seconds = steps * step_s + scored * evaluation["estimate_s"]
    hours = seconds / 3600
    return {
        "epochs": epochs,
        "steps": steps,
        "evaluated_batches": scored,
        "hours": hours,
        "device_hours": hours * devices,
        "device_hours_of_a_seed": hours * devices / config.seeds.count,
    }


def _notes(config, machine, programs) -> list[str]:
    """What an estimate rests on, and what of it is not known."""
    notes = [f"rates: {machine.source}", *roofline.ASSUMPTIONS]
    if planning.number_format(config) not in machine.flops_per_s:
        notes.append(f"FLOPs take no time: no peak of {planning.number_format(config)} is known")
    for row in programs:
        if row["flops_from"] != "compiler":
            notes.append(f"{row['program']}: FLOPs are from multiply-adds, not of the compiler")
        if row["bytes_from"] != "compiler":
            notes.append(
                f"{row['program']}: bytes are its arguments' and twice its kernels' results', not "
                "of the compiler"
            )
        if row["unknown_loops"]:
            notes.append(f"{row['program']}: {row['unknown_loops']} loops count once")
    if isinstance(config, PlanSearch) and config.method.warmup_epochs:
        notes.append("epochs of warm-up are counted as whole ones")
    if machine.platform == "cuda":
        notes.append("kernels are not tuned, as they are on a GPU that is there")
    if machine.kind != "cpu":
        notes.append(f"this package has not run on {machine.kind} yet: it was compiled for it")
    return notes


def _write(workdir: str, result: dict[str, Any]) -> None:
    file = configs.place(workdir) / "plan.json"
    try:
        file.write_text(json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}") from None


# As text.


def summary(result: dict[str, Any], workdir: str) -> str:
    """Returns a plan as tables for people."""
    mesh, memory, step, whole = (result[key] for key in ("mesh", "memory", "step", "run"))
    devices, seeds = result["devices"], result["seeds"]
    turns = f", {result['blocks']} in turn" if result["blocks"] > 1 else ""
    lines = [
        f"plan for {result['topology']}: {devices} devices = {mesh['seed']} groups of "
        f"{mesh['data']}; {seeds} seeds{turns}; batch {result['global_batch']}, "
        f"{result['local_batch']} a device; products in {result['number_format']}",
        "",
        "one step, on each device; times are estimates",
        *_table(
            ("program", "uses", "kernels", "GFLOP", "MB moved", "temp MB", "all-reduces", "ms"),
            [*map(_program, result["programs"]), _sum(step)],
        ),
        "",
        "memory of a device, MB",
        *_table(
            tuple(memory)[:-2],
            [tuple(f"{memory[key] / 1e6:,.1f}" for key in tuple(memory)[:-2])],
        ),
        f"{'fits' if memory['fits'] else 'DOES NOT FIT'} in {memory['device'] / 1e9:,.1f} GB",
    ]
    if "largest_batch" in result:
        found = result["largest_batch"]
        most = "any" if found["fitted"] is None else f"{found['fitted']:,}"
        ends = " and ".join(map(str, found["from"]))
        lines.append(f"largest batch that fits, fitted through {ends}: {most}")
    if result["collectives"]:
        heads = ("program", "kind", "KB", "along", "devices", "times", "us each")
        rows = [
            (
                one["program"],
                one["kind"],
                f"{one['bytes'] / 1e3:,.1f}",
                " ".join(one["axes"]) or "-",
                str(one["group"]),
                str(one["times"]),
                f"{one['seconds'] * 1e6:,.1f}",
            )
            for one in result["collectives"]
        ]
        lines += ["", "collectives", *_table(heads, rows)]
    lines += [
        "",
        f"estimate: {step['estimate_s'] * 1e3:,.3f} ms a step; {whole['steps']:,} steps in "
        f"{whole['epochs']} epochs and their evaluations: {whole['hours']:,.3g} hours, "
        f"{whole['device_hours']:,.3g} device-hours, {whole['device_hours_of_a_seed']:,.3g} a seed",
        *(f"- {note}" for note in result["notes"]),
    ]
    return "\n".join([*lines, f"file: {workdir}/plan.json"] if workdir else lines)


def _program(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["program"],
        str(row["uses"]),
        f"{row['kernels']:,}",
        f"{row['flops'] / 1e9:,.3f}",
        f"{row['bytes'] / 1e6:,.1f}",
        f"{row['temp_bytes'] / 1e6:,.1f}",
        str(row["collectives"]),
        f"{row['estimate_s'] * 1e3:,.3f}",
    )


def _sum(step: dict[str, Any]) -> tuple[str, ...]:
    return (
        "a step",
        "",
        f"{step['kernels']:,}",
        f"{step['flops'] / 1e9:,.3f}",
        f"{step['bytes'] / 1e6:,.1f}",
        "",
        str(step["collectives"]),
        f"{step['estimate_s'] * 1e3:,.3f}",
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in (head, *rows)
    ]
