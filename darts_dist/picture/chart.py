"""Charts in the shapes of `drawing`: bars side by side, and points over an axis.

Pure and standard library only; places in px, y points down.
"""

import dataclasses
import math
from collections.abc import Sequence

from darts_dist.picture.drawing import INK, PAPER, QUIET, Group, Rectangle, Shape, Stroke, Text

Colours = tuple[str, str]
"""Inside and around."""

GRID, LIMIT = "#e5e7eb", "#b93a26"
BAR_PX, ROW_PX = 14, 22  # a bar; from one to the next
DOT_PX = 4.5  # half of a point
TICKS = 4  # at most, above zero
LETTER = 0.56  # of a text's size, that a letter is wide
APART_PX = 34  # that numbers under an axis are, at least


@dataclasses.dataclass(frozen=True)
class Bar:
    """What stands before a bar, its parts (value, colours, what it is), and what stands behind."""

    label: str
    parts: tuple[tuple[float, Colours, str], ...]
    text: str


@dataclasses.dataclass(frozen=True)
class Point:
    """A value over a place on the axis; hollow: drawn as a ring."""

    at: float
    value: float
    hollow: bool
    title: str


def bars(
    rows: Sequence[Bar], x: float, y: float, label_px: float, width: float, most: float
) -> list[Group]:
    """Returns bars under each other from (x, y); `most` is as long as `width`."""
    groups = []
    for at, row in enumerate(rows):
        top = y + ROW_PX * at
        shapes: list[Shape] = [Text(x, top + BAR_PX / 2, row.label, 12, INK, anchor="start")]
        left = x + label_px
        for value, (fill, stroke), what in row.parts:
            wide = width * value / most if most else 0.0
            if wide > 0:
                shapes.append(Rectangle(left, top, max(wide, 1), BAR_PX, 2, fill, stroke))
                inside = what if wide > LETTER * 11 * len(what) + 8 else ""
                if inside:
                    shapes.append(Text(left + wide / 2, top + BAR_PX / 2, inside, 11, stroke))
            left += wide
        shapes.append(Text(left + 8, top + BAR_PX / 2, row.text, 12, QUIET, anchor="start"))
        told = ", ".join(what for value, _, what in row.parts if what and value)
        groups.append(Group(f"{row.label}: {row.text or told}", tuple(shapes)))
    return groups


def legend(entries: Sequence[tuple[str, Colours]], x: float, y: float) -> Group:
    """Returns small boxes of colours with what they mean, in one line from (x, y) on."""
    shapes: list[Shape] = []
    for name, (fill, stroke) in entries:
        shapes.append(Rectangle(x, y - 5, 10, 10, 2, fill, stroke))
        shapes.append(Text(x + 16, y, name, 12, INK, anchor="start"))
        x += 16 + LETTER * 12 * len(name) + 18
    return Group("legend", tuple(shapes))


def rings(entries: Sequence[tuple[str, bool]], colour: str, x: float, y: float) -> Group:
    """Returns a legend of points: (name, hollow) each."""
    shapes: list[Shape] = []
    for name, hollow in entries:
        shapes.append(_dot(x + DOT_PX, y, colour, hollow))
        shapes.append(Text(x + 16, y, name, 12, INK, anchor="start"))
        x += 16 + LETTER * 12 * len(name) + 18
    return Group("legend", tuple(shapes))


def panel(
    title: str,
    points: Sequence[Point],
    box: tuple[float, float, float, float],
    colour: str,
    limit: float | None = None,
) -> list[Group]:
    """Returns points, joined, over a logarithmic axis; box: x, y, width and height of the plane.

    limit: a value that is drawn as a dashed line.
    """
    x, y, width, height = box
    values = [point.value for point in points] + ([] if limit is None else [limit])
    step = tick(max(values))
    most = step * max(math.ceil(max(values) / step * 1.001), 1)
    first, last = (math.log2(end) for end in (points[0].at, points[-1].at))

    def place(point: Point) -> tuple[float, float]:
        share = (math.log2(point.at) - first) / (last - first)
        inset = 14
        return x + inset + share * (width - 2 * inset), y + height * (1 - point.value / most)

    shapes: list[Shape] = [Text(x, y - 18, title, 12, INK, anchor="start")]
    for at in range(round(most / step) + 1):
        level = y + height * (1 - at * step / most)
        shapes.append(Stroke(((x, level), (x + width, level)), GRID if at else QUIET))
        shapes.append(Text(x - 8, level, f"{at * step:,.10g}", 11, QUIET, anchor="end"))
    if limit is not None:
        level = y + height * (1 - limit / most)
        shapes.append(Stroke(((x, level), (x + width, level)), LIMIT, (6, 4)))
    groups, right = [Group(title, tuple(shapes))], -math.inf
    groups.append(Group("line", (Stroke(tuple(map(place, points)), colour),)))
    for point in points:
        left, top = place(point)
        mark: list[Shape] = [_dot(left, top, colour, point.hollow)]
        if left - right >= APART_PX:
            mark.append(Text(left, y + height + 13, f"{point.at:,.10g}", 11, QUIET))
            right = left
        groups.append(Group(point.title, tuple(mark)))
    return groups


def tick(most: float) -> float:
    """Returns the distance of ticks, 1, 2 or 5 times a power of ten, for TICKS of them at most."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most / TICKS))
    return next(power * size for size in (1, 2, 5, 10) if power * size * TICKS >= most)


def _dot(x: float, y: float, colour: str, hollow: bool) -> Rectangle:
    fill = PAPER if hollow else colour
    return Rectangle(x - DOT_PX, y - DOT_PX, 2 * DOT_PX, 2 * DOT_PX, DOT_PX, fill, colour)
