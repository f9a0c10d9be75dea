"""Pictures of cells: a genotype as svg, png, pdf or Graphviz text, without external programs.

`graph` says what is drawn, `layout` where, `drawing` in which shapes and colours, `formats` how a
file holds them; `heatmap` draws the weights that a cell is derived from. Place: layer 2; it
computes bytes and writes no file.
"""

import functools
from collections.abc import Iterable

from darts_dist.genotype import Genotype
from darts_dist.picture import drawing, formats
from darts_dist.picture.graph import Graph, cells

FORMATS = ("svg", "png", "pdf", "dot")
TITLE_LETTERS = 60


def render(genotype: Genotype, form: str, title: str = "", only: Iterable[str] = ()) -> bytes:
    """Returns a file's content, one of FORMATS, with all cells of a genotype or `only` those named.

    title: stands in the headings, its end cut where it is long, letters that do not print replaced.
    Raises InputError for a pdf where reportlab is not installed.
    """
    title = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in title)
    if len(title) > TITLE_LETTERS:
        title = title[: TITLE_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    graphs = {cell: graph for cell, graph in cells(genotype).items() if not only or cell in only}
    if form == "dot":
        return formats.dot(graphs, title).encode()
    picture = drawing.draw(graphs, title)
    if form == "svg":
        return formats.svg(picture).encode()
    return {"png": formats.png, "pdf": formats.pdf}[form](picture)


def each_cell(genotype: Genotype, title: str = "") -> dict[str, bytes]:
    """Returns an svg of each cell of a genotype, by the cell's name: "normal" and so on."""
    return {cell: render(genotype, "svg", title, (cell,)) for cell in cells(genotype)}


def thumbnail(genotype: Genotype, cell: str) -> bytes:
    """Returns a png of one cell, a pixel a px, made again only when the cell is another."""
    return _thumbnail(cell, cells(genotype)[cell])


@functools.lru_cache(maxsize=256)
def _thumbnail(cell: str, graph: Graph) -> bytes:
    return formats.packed(formats.raster(drawing.draw({cell: graph}, ""), 1))
