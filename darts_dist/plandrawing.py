"""A plan as a picture: memory by part, a step by program, and what a batch or seeds change.

Place: layer 4, part of the verb `plan`; a result in, svg out.
"""

from typing import Any

from darts_dist.picture import chart, formats
from darts_dist.picture.drawing import INK, QUIET, Drawing, Group, Rectangle, Text
from darts_dist.plancosts import PARTS
from darts_dist.plansweep import COMPILED

WIDTH_PX, MARGIN_PX = 780, 28
LABELS_PX, BARS_PX = 240, 390
PANEL_PX = (290, 150)  # width and height of the plane
BETWEEN_PX = 30
BLUE, TEAL, PURPLE, ORANGE, RED, GREY = (
    ("#cfe0f7", "#2563a8"),
    ("#cdebe7", "#0f766e"),
    ("#e4d9f8", "#6d44b0"),
    ("#fbe0c0", "#a85b0c"),
    ("#fbd3cd", "#b93a26"),
    ("#f3f4f6", "#64748b"),
)
OF_PART = dict(zip(PARTS, (BLUE, TEAL, PURPLE, ORANGE), strict=True))
OF_LIMIT = {"FLOPs": BLUE, "bytes": TEAL, "collectives": ORANGE}
BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def svg(result: dict[str, Any]) -> str:
    """Returns the picture of a plan as an svg document."""
    return formats.svg(draw(result))


def draw(result: dict[str, Any]) -> Drawing:
    """Returns the picture of a plan."""
    title = f"{result['name']} on {result['topology']}"
    mesh = result["mesh"]
    words = (
        f"{_several(mesh['seed'], 'group')} of {_several(mesh['data'], 'device')}, "
        f"{_several(result['seeds'], 'seed')}, batch {result['global_batch']}; times are estimates"
    )
    groups = [
        Group(title, (Text(MARGIN_PX, MARGIN_PX, title, 17, INK, anchor="start"),)),
        Group(words, (Text(MARGIN_PX, MARGIN_PX + 22, words, 12, QUIET, anchor="start"),)),
    ]
    y = MARGIN_PX + 56.0
    for section in (_memory, _programs):
        drawn, y = section(result, y)
        groups += drawn
    for key, by, at in (("by_batch", "batch", "global_batch"), ("by_seeds", "seeds", "seeds")):
        if key in result:
            drawn, y = _sweep(result[key], by, at, y)
            groups += drawn
    return Drawing(WIDTH_PX, round(y - BETWEEN_PX + MARGIN_PX), title, words, tuple(groups))


def _heading(text: str, y: float) -> Group:
    return Group(text, (Text(MARGIN_PX, y, text, 14, INK, anchor="start"),))


def _memory(result: dict[str, Any], y: float) -> tuple[list[Group], float]:
    memory = result["memory"]
    peak, room = memory["peak"], memory["device"]
    fits = "fits" if memory["fits"] else "DOES NOT FIT"
    heading = _heading(f"memory of a device: {_bytes(peak)} of {_bytes(room)}, {fits}", y)
    most, top, left = max(peak, room), y + 22, MARGIN_PX + LABELS_PX
    frame = Rectangle(left, top, BARS_PX * room / most, chart.BAR_PX, 2, *GREY)
    over = max(peak - room, 0)
    whole = chart.Bar("of the device", ((peak - over, BLUE, ""), (over, RED, "")), "")
    parts = tuple((memory[name], OF_PART[name], name) for name in PARTS)
    made = chart.Bar("made of", parts, "")
    groups = [heading, Group(f"room: {_bytes(room)}", (frame,))]
    groups += chart.bars([whole], MARGIN_PX, top, LABELS_PX, BARS_PX, most)
    top += chart.ROW_PX
    groups += chart.bars([made], MARGIN_PX, top, LABELS_PX, BARS_PX, peak)
    names = [(f"{name} {_bytes(memory[name])}", OF_PART[name]) for name in PARTS]
    groups.append(chart.legend(names, left, top + chart.ROW_PX + 8))
    return groups, top + 2 * chart.ROW_PX + BETWEEN_PX


def _programs(result: dict[str, Any], y: float) -> tuple[list[Group], float]:
    rows = []
    for one in result["programs"]:
        if not one["uses"]:
            continue
        name = "FLOPs" if one["compute_s"] >= one["memory_s"] else "bytes"
        apart, whole = (one["uses"] * one[key] * 1e3 for key in ("collective_s", "estimate_s"))
        parts = ((whole - apart, OF_LIMIT[name], ""), (apart, OF_LIMIT["collectives"], ""))
        uses = f"{one['uses']:.3g}"
        label = one["program"] if uses == "1" else f"{one['program']} x {uses}"
        rows.append(chart.Bar(label, parts, f"{whole:,.3g} ms" if whole >= 1e-3 else "< 0.001 ms"))
    most = max(sum(part[0] for part in row.parts) for row in rows)
    step = result["step"]["estimate_s"] * 1e3
    heading = _heading(f"a step of all seeds: {step:,.3g} ms, by program and what limits it", y)
    top, left = y + 22, MARGIN_PX + LABELS_PX
    drawn = chart.bars(rows, MARGIN_PX, top, LABELS_PX, BARS_PX, most)
    bottom = top + chart.ROW_PX * len(rows) + 8
    return [heading, *drawn, chart.legend(list(OF_LIMIT.items()), left, bottom)], (
        bottom + chart.ROW_PX + BETWEEN_PX
    )


def _sweep(found: dict[str, Any], by: str, at: str, y: float) -> tuple[list[Group], float]:
    points = found["points"]
    room = points[0]["memory"]["device"]
    peak = max(point["memory"]["peak"] for point in points)
    unit, name = next(((unit, name) for unit, name in BYTES if peak >= unit), BYTES[-1])
    near = room <= 3 * peak
    limit = room / unit if near else None
    tops = f"peak memory, {name} ({'dashed' if near else 'room'}: {_bytes(room)})"
    heading, top = _heading(f"by {by}", y), y + 50
    groups = [heading]
    for title, column, colour, line, value in (
        (tops, 0, OF_PART["temp"][1], limit, lambda one: one["memory"]["peak"] / unit),
        ("ms a step of all seeds, estimate", 1, BLUE[1], None, lambda one: 1e3 * one["estimate_s"]),
    ):
        drawn = [
            chart.Point(
                one[at],
                value(one),
                one["source"] != COMPILED,
                f"{by} {one[at]}: {value(one):,.4g}, {one['source']}",
            )
            for one in points
        ]
        left = MARGIN_PX + 52 + column * (PANEL_PX[0] + 82)
        groups += chart.panel(title, drawn, (left, top, *PANEL_PX), colour, line)
    sources = list(dict.fromkeys(one["source"] for one in points))
    names = [(source, source != COMPILED) for source in sorted(sources)]
    bottom = top + PANEL_PX[1] + 40
    groups.append(chart.rings(names, QUIET, MARGIN_PX + 52, bottom))
    if found.get("largest"):
        text = f"largest batch that fits, on the line: {found['largest']:,}"
        groups.append(Group(text, (Text(MARGIN_PX + 424, bottom, text, 12, INK, anchor="start"),)))
    return groups, bottom + 14 + BETWEEN_PX


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _bytes(count: float) -> str:
    unit, name = next(((unit, name) for unit, name in BYTES if count >= unit), (1, "bytes"))
    return f"{count / unit:,.3g} {name}"
