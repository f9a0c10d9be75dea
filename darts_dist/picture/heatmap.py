"""Mixture weights of a cell as a map: a row for each edge, a column for each operation.

Colour and number say how much an operation counts on an edge; a frame says what the derived cell
keeps. The colours mean the same in every map, so maps of epochs, cells and seeds may be compared.
Drawn by Pillow with rectangles and text alone: thousands are drawn in a search. Letters: `E` edges,
`K` operations.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from darts_dist.picture import formats
from darts_dist.picture.drawing import INK, PAPER, QUIET

Edge = tuple[int, int]
"""The states that an edge leads from and to, numbered as in a genotype."""

WIDTH_PX = 350  # of TensorBoard's place for a picture; what it must scale it makes coarse
MARGIN_PX = 6
EDGES_PX = 36  # for the names of the edges
ROW_PX, GAP_PX = 17, 4  # an edge; between the edges of two nodes
COLUMN_PX = (28, 60)  # at least and at most; many operations make the map wider
LINE_PX = 12  # from one line of text to the next
NAME, NUMBER = 11, 12  # sizes of text in px
COLOURS = ((241, 245, 249), (96, 165, 222), (23, 37, 84))  # of 0, of 25 and of 100 per cent
FRAME = "#d97706"


def png(
    weights: Sequence[Sequence[float]],
    edges: Sequence[Edge],
    operations: Sequence[str],
    kept: Mapping[Edge, str],
    title: str,
) -> bytes:
    """Returns a map of weights f[E, K], each in 0..1, as png.

    edges: E, those of a node in sequence. operations: K names. kept: the operation of each edge
    that the derived cell keeps.
    """
    names = [operation.split("_") for operation in operations]
    left = MARGIN_PX + EDGES_PX
    room = (WIDTH_PX - MARGIN_PX - left) // len(operations)
    column = min(max(room, COLUMN_PX[0]), COLUMN_PX[1])
    widest = max(formats.font(NAME).getlength(word) for name in names for word in name)
    small = min(NAME, NAME * (column - 1) / widest)
    top = MARGIN_PX + LINE_PX * max(map(len, names)) + 3
    nodes = [0, *itertools.accumulate(a[1] != b[1] for a, b in itertools.pairwise(edges))]
    rows = [top + ROW_PX * row + GAP_PX * node for row, node in enumerate(nodes)]
    columns = [left + column * place for place in range(len(operations))]
    caption = rows[-1] + ROW_PX + LINE_PX
    size = (max(WIDTH_PX, columns[-1] + column + MARGIN_PX), caption + LINE_PX)
    image = Image.new("RGB", size, PAPER)
    pencil = ImageDraw.Draw(image)

    def text(x: float, y: float, words: str, px: float, colour: str, anchor: str = "mm") -> None:
        pencil.text((x, y), words, colour, formats.font(px), anchor)

    for x, name in zip(columns, names, strict=True):
        for line, word in enumerate(reversed(name)):
            text(x + column / 2, top - 8 - LINE_PX * line, word, small, INK)
    for y, edge, values in zip(rows, edges, weights, strict=True):
        middle = y + ROW_PX / 2
        text(left - 6, middle, f"{edge[0]}->{edge[1]}", NAME, QUIET, "rm")
        for x, operation, value in zip(columns, operations, values, strict=True):
            box = (x, y, x + column - 2, y + ROW_PX - 2)
            pencil.rectangle(box, _colour(value))
            if kept.get(edge) == operation:
                pencil.rectangle(box, outline=FRAME, width=2)
            ink = PAPER if _depth(value) > 0.5 else INK
            text(x + column / 2 - 1, middle - 1, f"{100 * value:.0f}", NUMBER, ink)
    words = f"{title}: per cent of an edge; framed: derived"
    text(MARGIN_PX, caption, words, NAME, QUIET, "lm")
    return formats.packed(image)


def _depth(value: float) -> float:
    """How dark a weight is, in 0..1; its root, for most weights of a search are small."""
    return math.sqrt(min(max(value, 0.0), 1.0))


def _colour(value: float) -> tuple[int, ...]:
    at = 2 * _depth(value)
    light, dark = COLOURS[:2] if at < 1 else COLOURS[1:]
    return tuple(round(a + (at - (at >= 1)) * (b - a)) for a, b in zip(light, dark, strict=True))
