"""A plan as tables of text.

Place: layer 4, part of the verb `plan`; a result in, text out.
"""

from typing import Any

from darts_dist.summary import aligned

KEYS = {"batch": "global_batch", "seeds": "seeds"}


def summary(result: dict[str, Any], workdir: str) -> str:
    """Returns a plan as tables for people."""
    mesh, memory, step, whole = (result[key] for key in ("mesh", "memory", "step", "run"))
    parts = tuple(memory)[:-2]
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
            parts,
            [tuple(f"{memory[key] / 1e6:,.1f}" for key in parts)],
        ),
        f"{'fits' if memory['fits'] else 'DOES NOT FIT'} in {memory['device'] / 1e9:,.1f} GB",
    ]
    if result["collectives"]:
        heads = ("program", "kind", "KB", "along", "devices", "times", "us each")
        rows = [
            (
                one["program"],
                one["kind"],
                f"{one['bytes'] / 1e3:,.1f}",
                " ".join(one["axes"]) or "-",
                str(one["group"]),
                f"{one['times']:.4g}",
                f"{one['seconds'] * 1e6:,.1f}",
            )
            for one in result["collectives"]
        ]
        lines += ["", "collectives", *_table(heads, rows)]
    for key, by in (("by_batch", "batch"), ("by_seeds", "seeds")):
        if key in result:
            lines += ["", *_sweep(by, result[key])]
    lines += [
        "",
        f"estimate: {step['estimate_s'] * 1e3:,.3f} ms a step; {whole['steps']:,} steps in "
        f"{whole['epochs']} epochs and their evaluations: {whole['hours']:,.3g} hours, "
        f"{whole['device_hours']:,.3g} device-hours, {whole['device_hours_of_a_seed']:,.3g} a seed",
        *(f"- {note}" for note in result["notes"]),
    ]
    return "\n".join([*lines, f"files: {workdir}/plan.json plan.svg"] if workdir else lines)


def _sweep(by: str, found: dict[str, Any]) -> list[str]:
    """Lines of what a plan comes to at several batches, or numbers of seeds."""
    points = found["points"]
    unit = points[0]["run"]["unit"]
    heads = (by, "source", "groups x devices", "in turn", "peak MB", "fits", "ms a step")
    rows = [
        (
            f"{point[KEYS[by]]:,}",
            point["source"],
            f"{point['mesh']['seed']} x {point['mesh']['data']}",
            str(point["blocks"]),
            f"{point['memory']['peak'] / 1e6:,.1f}",
            "yes" if point["memory"]["fits"] else "NO",
            f"{point['estimate_s'] * 1e3:,.3f}",
            f"{point['run']['examples_per_s'] or 0:,.0f}",
            f"{point['run']['hours']:,.3g}",
            f"{point['run']['device_hours']:,.3g}",
            f"{point['run']['device_hours_of_a_seed']:,.3g}",
        )
        for point in points
    ]
    heads = (*heads, f"{unit}/s", "hours", "device-hours", "of a seed")
    lines = [f"by {by}, over all devices; a whole run", *_table(heads, rows)]
    if "largest" in found:
        low, high = found["from"]
        most = "any" if found["largest"] is None else f"{found['largest']:,}"
        lines.append(f"largest batch that fits, on the line through {low} and {high}: {most}")
    return [*lines, *(f"- {note}" for note in found["notes"])]


def _program(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["program"],
        f"{row['uses']:.4g}",
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
        f"{step['kernels']:,.0f}",
        f"{step['flops'] / 1e9:,.3f}",
        f"{step['bytes'] / 1e6:,.1f}",
        "",
        f"{step['collectives']:.4g}",
        f"{step['estimate_s'] * 1e3:,.3f}",
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return aligned([head, *rows], left=1)
