"""Cells as shapes: what every format draws, with places in px and colours.

Pure and standard library only; y points down. The look is here, the file formats are in `formats`.
"""

import dataclasses
from collections.abc import Mapping

from darts_dist.picture import layout
from darts_dist.picture.graph import HEADINGS, Graph

MARGIN_PX = 24
HEADING_PX = 34  # a heading with the space under it
BETWEEN_PX = 30  # between two cells
ARROW_PX = (8, 3.5)  # length, half its width
INK, PAPER, QUIET = "#1f2937", "#ffffff", "#64748b"

INPUT, NODE, OUTPUT = ("#e3f3e7", "#3f8f58"), ("#eef2f7", "#475569"), ("#fdf0d0", "#a87b14")
"""Colours inside and around a box."""

KINDS = (
    ("sep_conv", "#e4eefb", "#2563a8", ()),
    ("dil_conv", "#efe8fb", "#6d44b0", ()),
    ("conv", "#dff3f1", "#0f766e", ()),
    ("max_pool", "#fde7e4", "#b93a26", ()),
    ("avg_pool", "#fdeedb", "#a85b0c", ()),
    ("tanh", "#e4eefb", "#2563a8", ()),
    ("relu", "#fde7e4", "#b93a26", ()),
    ("sigmoid", "#efe8fb", "#6d44b0", ()),
    ("skip_connect", "#f3f4f6", "#64748b", (6, 4)),
    ("identity", "#f3f4f6", "#64748b", (6, 4)),
    ("none", "#fafafa", "#9ca3af", (1.5, 4)),
    ("", "#f3f4f6", "#374151", ()),
)
"""What an operation's name begins with, its colours inside and around, and its line's dashes."""


@dataclasses.dataclass(frozen=True)
class Rectangle:
    """A rounded rectangle by its upper left corner."""

    x: float
    y: float
    width: float
    height: float
    radius: float
    fill: str
    stroke: str


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of bends, level between them, each a cubic curve that begins and ends level.

    It ends with an arrow's head. dashes: lengths of a dash and of the space after it, or nothing.
    """

    bends: tuple[layout.Bend, ...]
    colour: str
    dashes: tuple[float, ...]

    def curves(self) -> list[tuple[tuple[float, float], ...]]:
        """Returns start, two control points and end of each curve; the head is left out."""
        found = []
        for at, (x0, y0, x1, y1) in enumerate(self.bends):
            if at == len(self.bends) - 1:
                x1 -= ARROW_PX[0] - 1
            middle = (x0 + x1) / 2
            found.append(((x0, y0), (middle, y0), (middle, y1), (x1, y1)))
        return found

    def head(self) -> list[tuple[float, float]]:
        """Returns the corners of the arrow's head."""
        (*_, x, y), (length, half) = self.bends[-1], ARROW_PX
        return [(x - length, y - half), (x, y), (x - length, y + half)]


@dataclasses.dataclass(frozen=True)
class Stroke:
    """Straight lines from point to point (x, y). dashes: as of a `Line`."""

    points: tuple[tuple[float, float], ...]
    colour: str
    dashes: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Text:
    """One line of text, its middle at y, with what is set lower after it; `x` as `anchor` says."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    below: str = ""
    anchor: str = "middle"  # or "start" or "end"


Shape = Rectangle | Line | Stroke | Text


@dataclasses.dataclass(frozen=True)
class Group:
    """Shapes that belong together, later ones on top, and what they mean in words."""

    title: str
    shapes: tuple[Shape, ...]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A whole picture on PAPER."""

    width: int
    height: int
    title: str
    description: str
    groups: tuple[Group, ...]


def draw(graphs: Mapping[str, Graph], title: str) -> Drawing:
    """Returns one picture of the cells, one under the other; `title` leads each cell's heading."""
    groups: list[Group] = []
    width, y = 0.0, float(MARGIN_PX)
    for cell, graph in graphs.items():
        heading = f"{title}, {HEADINGS[cell]}" if title else HEADINGS[cell]
        placed = layout.place(graph)
        text = Text(MARGIN_PX, y + 8, heading, 16, INK, anchor="start")
        groups.append(Group(heading, (text,)))
        groups += _cell(graph, placed, MARGIN_PX, y + HEADING_PX)
        width = max(width, placed.width, sum(9.6 if one.isascii() else 17 for one in heading))
        y += HEADING_PX + placed.height + BETWEEN_PX
    height = y - BETWEEN_PX + MARGIN_PX
    names = " and ".join(HEADINGS[cell] for cell in graphs)
    words = " ".join(
        f"{HEADINGS[cell].capitalize()}: {graph.describe()}" for cell, graph in graphs.items()
    )
    whole = f"{title}, {names}" if title else names
    return Drawing(
        round(width + 2 * MARGIN_PX + 0.5), round(height + 0.5), whole, words, tuple(groups)
    )


def _cell(graph: Graph, placed: layout.Layout, x: float, y: float) -> list[Group]:
    """Returns a cell's lines with their labels, then its boxes."""
    groups = []
    last = len(graph.names) - 1
    for edge, bends, label in zip(graph.edges, placed.lines, placed.labels, strict=True):
        source, target = graph.names[edge.source], graph.names[edge.target]
        _, fill, stroke, dashes = kind_of(edge.operation) if edge.operation else ("", "", QUIET, ())
        moved = tuple((x0 + x, y0 + y, x1 + x, y1 + y) for x0, y0, x1, y1 in bends)
        shapes: list[Shape] = [Line(moved, stroke, dashes)]
        if label is not None:
            shapes.append(_rectangle(label, x, y, label.height / 2, (fill, stroke)))
            shapes.append(Text(x + label.x, y + label.y, edge.operation, 12, stroke))
        words = f"{edge.operation}: " if edge.operation else ""
        groups.append(Group(f"{words}{source} to {target}", tuple(shapes)))
    for at, (name, box) in enumerate(zip(graph.names, placed.boxes, strict=True)):
        letter, _, below = name.rstrip("}").partition("_{")
        text = Text(x + box.x, y + box.y, letter, 15, INK, below)
        what = "input" if at < 2 else f"output, {graph.join}" if at == last else "node"
        groups.append(
            Group(f"{name}: {what}", (_rectangle(box, x, y, 6, box_colours(graph, at)), text))
        )
    return groups


def box_colours(graph: Graph, at: int) -> tuple[str, str]:
    """Returns the colours inside and around the box of a node."""
    return INPUT if at < 2 else OUTPUT if at == len(graph.names) - 1 else NODE


def kind_of(operation: str) -> tuple[str, str, str, tuple[float, ...]]:
    """Returns the row of KINDS for an operation."""
    return next(kind for kind in KINDS if operation.startswith(kind[0]))


def _rectangle(box: layout.Box, x: float, y: float, radius: float, colours) -> Rectangle:
    left, top = x + box.x - box.width / 2, y + box.y - box.height / 2
    return Rectangle(left, top, box.width, box.height, radius, *colours)
