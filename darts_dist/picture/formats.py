"""Cells as a file: svg and Graphviz text by the standard library, png by Pillow, pdf by reportlab.

The bytes are a function of what is drawn (and of the library's version), with no time in them.
"""

import functools
import io
import itertools
import math
from collections.abc import Mapping
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

from darts_dist.errors import InputError
from darts_dist.picture.drawing import (
    PAPER,
    QUIET,
    Drawing,
    Line,
    Rectangle,
    Shape,
    Stroke,
    Text,
    box_colours,
    kind_of,
)
from darts_dist.picture.graph import HEADINGS, Graph

FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
STROKE_PX = 1.5
BELOW = (0.72, 0.28)  # what is set lower: its size, and how far, in parts of the text's size
MIDDLE = 0.35  # from a letter's middle to the line it stands on, in parts of the text's size
PNG_SCALE = 2  # pixels a px
SMOOTH = 3  # times as fine as a pixel are lines drawn, then averaged
MOST_PIXELS = 60e6  # of the fine picture; what would have more is drawn smaller
BERNSTEIN = tuple(
    ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
    for t in (at / 32 for at in range(33))
)
"""How much each point of a cubic curve takes of its four corners."""
AHEAD = {"start": 0, "middle": 0.5, "end": 1}  # part of a text before the place of its anchor
POINTS_PX = 0.75  # a px of css in points


def svg(drawing: Drawing) -> str:
    """Returns the drawing as an svg document that can stand alone or within a page.

    It has neither ids nor styles nor references, so several in one page do not meddle.
    """
    width, height = drawing.width, drawing.height
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="{FONTS}" '
        f'stroke-width="{STROKE_PX}">',
        f"<title>{escape(drawing.title)}</title>",
        f"<desc>{escape(drawing.description)}</desc>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
    ]
    for group in drawing.groups:
        shapes = "".join(map(_svg_shape, group.shapes))
        lines.append(f"<g><title>{escape(group.title)}</title>{shapes}</g>")
    return "\n".join([*lines, "</svg>"]) + "\n"


def _svg_shape(shape: Shape) -> str:
    if isinstance(shape, Rectangle):
        return (
            f'<rect x="{_n(shape.x)}" y="{_n(shape.y)}" width="{_n(shape.width)}" '
            f'height="{_n(shape.height)}" rx="{_n(shape.radius)}" fill="{shape.fill}" '
            f'stroke="{shape.stroke}"/>'
        )
    if isinstance(shape, Text):
        y, size = shape.y + MIDDLE * shape.size, shape.size
        below = ""
        if shape.below:
            scale, drop = BELOW
            below = (
                f'<tspan dy="{_n(drop * size)}" font-size="{_n(scale * size)}">'
                f"{escape(shape.below)}</tspan>"
            )
        return (
            f'<text x="{_n(shape.x)}" y="{_n(y)}" font-size="{_n(size)}" fill="{shape.colour}" '
            f'text-anchor="{shape.anchor}">{escape(shape.text)}{below}</text>'
        )
    dashes = " ".join(map(_n, shape.dashes))
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    if isinstance(shape, Stroke):
        points = " ".join(map(_pair, shape.points))
        return f'<polyline points="{points}" fill="none" stroke="{shape.colour}"{dashed}/>'
    steps = []
    for start, *rest in shape.curves():
        steps.append(f"{'L' if steps else 'M'}{_pair(start)}C{' '.join(map(_pair, rest))}")
    corners = " ".join(map(_pair, shape.head()))
    return (
        f'<path d="{"".join(steps)}" fill="none" stroke="{shape.colour}"{dashed}/>'
        f'<polygon points="{corners}" fill="{shape.colour}"/>'
    )


def _n(value: float) -> str:
    """Returns a number to a hundredth; a tenth shows as a step in a level line."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _pair(point: tuple[float, float]) -> str:
    return f"{_n(point[0])},{_n(point[1])}"


def png(drawing: Drawing) -> bytes:
    """Returns the drawing as png, PNG_SCALE pixels a px."""
    content = io.BytesIO()
    raster(drawing, PNG_SCALE).save(content, "png", optimize=True)
    return content.getvalue()


def raster(drawing: Drawing, scale: int) -> Image.Image:
    """Returns the drawing in so many pixels a px, with the font that Pillow brings."""
    fine = scale * SMOOTH
    fine = min(fine, math.sqrt(MOST_PIXELS / (drawing.width * drawing.height)))
    image = Image.new("RGB", (round(fine * drawing.width), round(fine * drawing.height)), PAPER)
    pencil = ImageDraw.Draw(image)
    for group in drawing.groups:
        for shape in group.shapes:
            _png_shape(pencil, shape, fine)
    return image.reduce(SMOOTH)


def packed(image: Image.Image) -> bytes:
    """Returns an image as png with 256 colours: a third of the bytes, in less time."""
    content = io.BytesIO()
    image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(content, "png")
    return content.getvalue()


@functools.lru_cache
def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns the font that Pillow brings; making one costs more than writing a word in it."""
    return ImageFont.load_default(size)


def _png_shape(pencil: ImageDraw.ImageDraw, shape: Shape, fine: float) -> None:
    stroke = max(1, round(STROKE_PX * fine))
    if isinstance(shape, Rectangle):
        corners = (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)
        half = STROKE_PX / 2  # Pillow's outline lies within its corners
        outer = [fine * (c + (half if at > 1 else -half)) for at, c in enumerate(corners)]
        radius = fine * (shape.radius + half)
        pencil.rounded_rectangle(outer, radius, shape.fill, shape.stroke, stroke)
    elif isinstance(shape, Text):
        letters, small = font(fine * shape.size), font(fine * shape.size * BELOW[0])
        x, y = fine * shape.x, fine * (shape.y + MIDDLE * shape.size)
        wide = pencil.textlength(shape.text, letters)
        x -= AHEAD[shape.anchor] * (wide + pencil.textlength(shape.below, small))
        pencil.text((x, y), shape.text, shape.colour, letters, anchor="ls")
        y += fine * BELOW[1] * shape.size
        pencil.text((x + wide, y), shape.below, shape.colour, small, anchor="ls")
    else:
        straight = isinstance(shape, Stroke)
        for piece in _dashed(list(shape.points) if straight else _flat(shape), shape.dashes):
            points = [(fine * x, fine * y) for x, y in piece]
            pencil.line(points, shape.colour, stroke, joint="curve")
        if straight:
            return
        pencil.polygon([(fine * x, fine * y) for x, y in shape.head()], shape.colour)


def _flat(line: Line) -> list[tuple[float, float]]:
    """Returns a line as points so near to each other that it looks round."""
    return [
        (a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3)
        for (x0, y0), (x1, y1), (x2, y2), (x3, y3) in line.curves()
        for a, b, c, d in BERNSTEIN
    ]


def _dashed(points: list[tuple[float, float]], dashes: tuple[float, ...]):
    """Yields the parts of a line that are drawn: all of it, or what its dashes cover."""
    if not dashes:
        yield points
        return
    lengths = itertools.cycle(dashes)
    left, drawn, part = next(lengths), True, [points[0]]
    for start, end in itertools.pairwise(points):
        here, whole = 0.0, math.dist(start, end)
        while whole - here > left:
            here += left
            share = here / whole
            turn = tuple(a + share * (b - a) for a, b in zip(start, end, strict=True))
            if drawn:
                yield [*part, turn]
            left, drawn, part = next(lengths), not drawn, [turn]
        left -= whole - here
        part.append(end)
    if drawn:
        yield part


def pdf(drawing: Drawing) -> bytes:
    """Returns the drawing as a one-page pdf of lines and letters; InputError without reportlab."""
    try:
        from reportlab.pdfgen.canvas import Canvas
    except ImportError as error:
        raise InputError(
            "a pdf is drawn by reportlab, which is not installed: pip install "
            "'darts-dist[pictures]'; svg, png and dot need nothing more"
        ) from error
    content = io.BytesIO()
    size = (POINTS_PX * drawing.width, POINTS_PX * drawing.height)
    canvas = Canvas(content, pagesize=size, invariant=1)
    canvas.setTitle(drawing.title)
    canvas.setSubject(drawing.description)
    canvas.scale(POINTS_PX, POINTS_PX)
    canvas.setLineWidth(STROKE_PX)
    for group in drawing.groups:
        for shape in group.shapes:
            _pdf_shape(canvas, shape, drawing.height)
    canvas.showPage()
    canvas.save()
    return content.getvalue()


def _pdf_shape(canvas, shape: Shape, height: float) -> None:
    """Draws a shape on reportlab's canvas, whose y points up."""
    if isinstance(shape, Rectangle):
        canvas.setFillColor(shape.fill)
        canvas.setStrokeColor(shape.stroke)
        bottom = height - shape.y - shape.height
        canvas.roundRect(shape.x, bottom, shape.width, shape.height, shape.radius, fill=1)
    elif isinstance(shape, Text):
        scale, drop = BELOW
        wide = canvas.stringWidth(shape.text, "Helvetica", shape.size)
        below = canvas.stringWidth(shape.below, "Helvetica", scale * shape.size)
        x = shape.x - AHEAD[shape.anchor] * (wide + below)
        y = height - shape.y - MIDDLE * shape.size
        canvas.setFillColor(shape.colour)
        canvas.setFont("Helvetica", shape.size)
        canvas.drawString(x, y, shape.text)
        canvas.setFont("Helvetica", scale * shape.size)
        canvas.drawString(x + wide, y - drop * shape.size, shape.below)
    else:
        canvas.setStrokeColor(shape.colour)
        canvas.setFillColor(shape.colour)
        canvas.setDash(list(shape.dashes))
        path = canvas.beginPath()
        if isinstance(shape, Stroke):
            for at, (x, y) in enumerate(shape.points):
                (path.lineTo if at else path.moveTo)(x, height - y)
            canvas.drawPath(path)
            canvas.setDash()
            return
        for at, (start, *rest) in enumerate(shape.curves()):
            move = path.lineTo if at else path.moveTo
            move(start[0], height - start[1])
            path.curveTo(*(c for x, y in rest for c in (x, height - y)))
        canvas.drawPath(path)
        canvas.setDash()
        head = canvas.beginPath()
        for at, (x, y) in enumerate(shape.head()):
            (head.lineTo if at else head.moveTo)(x, height - y)
        head.close()
        canvas.drawPath(head, stroke=0, fill=1)


def dot(graphs: Mapping[str, Graph], title: str) -> str:
    """Returns the cells as Graphviz text, a cluster each, in the colours of the drawing."""
    lines = [
        f"digraph {_quoted(title or 'cells')} {{",
        "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled", fontname=Helvetica];',
        f"  edge [color={_quoted(QUIET)}, fontname=Helvetica, fontsize=11];",
    ]
    for cell, graph in graphs.items():
        lines.append(f"  subgraph {_quoted(f'cluster_{cell}')} {{")
        lines.append(f"    label={_quoted(HEADINGS[cell])};")
        nodes = [_quoted(f"{cell} {name}") for name in graph.names]
        for at, (node, name) in enumerate(zip(nodes, graph.names, strict=True)):
            fill, stroke = box_colours(graph, at)
            lines.append(f"    {node} [{_listed(label=name, fillcolor=fill, color=stroke)}];")
        for edge in graph.edges:
            listed = ""
            if edge.operation:
                _, _, stroke, dashes = kind_of(edge.operation)
                style = "dashed" if dashes else "solid"
                marks = _listed(label=edge.operation, color=stroke, fontcolor=stroke, style=style)
                listed = f" [{marks}]"
            lines.append(f"    {nodes[edge.source]} -> {nodes[edge.target]}{listed};")
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def _listed(**attributes: str) -> str:
    return ", ".join(f"{name}={_quoted(value)}" for name, value in attributes.items())


def _quoted(text: str) -> str:
    """Returns a Graphviz string; a backslash would begin an escape there."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
