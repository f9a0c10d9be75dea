"""Maps of mixture weights: their sizes, colours and frames."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageColor

from darts_dist import genotype, picture
from darts_dist.knobs import Space
from darts_dist.picture import heatmap
from darts_dist.spaces.derive import edges_of

OPERATIONS = Space().operations


def drawn(weights, kept=None, operations=OPERATIONS):
    edges = edges_of(len(weights), "cnn")
    png = heatmap.png(np.asarray(weights).tolist(), edges, operations, kept or {}, "normal cell")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)


def tone(weight, edges=5):
    """The brightness of the colour that fills a map whose weights are all the same."""
    colours, counts = np.unique(
        drawn(np.full((edges, 8), weight)).reshape(-1, 3), axis=0, return_counts=True
    )
    paper = (colours > 250).all(1)
    return colours[np.where(paper, 0, counts).argmax()].sum()


@pytest.mark.parametrize("nodes", range(1, 9))
@pytest.mark.parametrize("count", [1, 3, 8, 9])
def test_maps_of_usual_cells_are_as_wide_as_their_place(nodes, count):
    edges = sum(2 + node for node in range(nodes))
    operations = (*OPERATIONS, "sep_conv_7x7")[:count]
    height, width, _ = drawn(np.full((edges, count), 1 / count), operations=operations).shape
    assert width == heatmap.WIDTH_PX
    assert height > edges * heatmap.ROW_PX


def test_many_operations_make_a_map_wider():
    operations = [f"conv_{k}x{k}" for k in range(30)]
    assert drawn(np.full((5, 30), 0.1), operations=operations).shape[1] > 30 * 28


def test_more_weight_is_darker_and_the_same_weight_the_same_colour():
    tones = [tone(weight) for weight in (0, 0.05, 0.125, 0.25, 0.3, 0.5, 0.8, 1)]
    assert all(a > b + 10 for a, b in itertools.pairwise(tones))
    assert len({tone(0.125, edges) for edges in (2, 5, 9)}) == 1


def test_each_kept_operation_has_a_frame():
    weights, frame = np.full((5, 8), 0.125), ImageColor.getrgb(heatmap.FRAME)

    def framed(kept):
        return (abs(drawn(weights, kept) - frame).max(-1) < 12).sum()

    one, two = framed({(0, 2): "none"}), framed({(0, 2): "none", (2, 3): "skip_connect"})
    assert framed({}) == framed({(0, 2): "no_such"}) == 0
    assert two == 2 * one > 100


def test_frames_stand_in_the_row_and_the_column_of_what_is_kept():
    plain = drawn(np.full((5, 8), 0.125))

    def place(edge, operation):
        changed = (drawn(np.full((5, 8), 0.125), {edge: operation}) != plain).any(-1)
        return tuple(np.argwhere(changed).mean(0))

    rows = [place(edge, "none")[0] for edge in edges_of(5, "cnn")]
    columns = [place((0, 2), operation)[1] for operation in OPERATIONS]
    assert rows == sorted(rows)
    assert columns == sorted(columns)


def test_a_thumbnail_is_a_small_png_of_its_cell():
    value = genotype.load("DARTS_V2", "cnn")
    sizes = {}
    for cell in ("normal", "reduce"):
        png = picture.thumbnail(value, cell)
        assert png == picture.thumbnail(value, cell)
        sizes[cell] = Image.open(io.BytesIO(png)).size
        large = Image.open(io.BytesIO(picture.render(value, "png", "", (cell,))))
        assert large.size == tuple(2 * side for side in sizes[cell])
    assert sizes["normal"] != sizes["reduce"]
