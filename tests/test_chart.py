"""Charts: bars as long as their values, points where theirs lie, the same in every format."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from darts_dist.picture import chart, formats
from darts_dist.picture.drawing import PAPER, Drawing, Group, Rectangle, Stroke, Text

BLUE = ("#cfe0f7", "#2563a8")
BOX = (60.0, 40.0, 200.0, 100.0)


def shapes(groups, kind):
    return [one for group in groups for one in group.shapes if isinstance(one, kind)]


def test_bars_are_as_long_as_their_values():
    rows = [
        chart.Bar("a", ((2.0, BLUE, ""), (1.0, BLUE, "")), "3"),
        chart.Bar("none", ((0.0, BLUE, ""),), "0"),
    ]
    found = shapes(chart.bars(rows, 10, 20, 100, 300, 3.0), Rectangle)
    assert [(one.x, one.width) for one in found] == [(110, 200), (310, 100)]


def panel(values, limit=None, hollow=False):
    points = [chart.Point(2**at, value, hollow, str(at)) for at, value in enumerate(values)]
    return chart.panel("title", points, BOX, BLUE[1], limit)


def test_points_lie_as_high_as_their_values_and_doubles_are_equally_far_apart():
    dots = shapes(panel([10.0, 5.0, 20.0]), Rectangle)
    middles = [(one.x + chart.DOT_PX, one.y + chart.DOT_PX) for one in dots]
    apart = [b[0] - a[0] for a, b in itertools.pairwise(middles)]
    assert apart[0] == pytest.approx(apart[1])
    bottom = BOX[1] + BOX[3]
    heights = [bottom - y for _, y in middles]
    assert heights[0] == pytest.approx(2 * heights[1]) == pytest.approx(heights[2] / 2)
    assert min(y for _, y in middles) >= BOX[1]


def test_what_is_not_compiled_is_hollow():
    (solid, *_), (ring, *_) = (
        shapes(panel([1, 2], hollow=one), Rectangle) for one in (False, True)
    )
    assert solid.fill == BLUE[1] and ring.fill == PAPER and ring.stroke == BLUE[1]


def test_a_limit_is_dashed_and_within_the_plane():
    groups = panel([1.0, 2.0], limit=16.0)
    (dashed,) = (one for one in shapes(groups, Stroke) if one.dashes)
    assert BOX[1] <= dashed.points[0][1] < BOX[1] + BOX[3] / 2


def test_numbers_under_the_axis_do_not_touch():
    points = [chart.Point(at, 1.0, False, "") for at in range(100, 200)]
    groups = chart.panel("title", points, BOX, BLUE[1])
    under = [one.x for one in shapes(groups, Text) if one.y > BOX[1] + BOX[3]]
    assert under and all(b - a >= chart.APART_PX for a, b in itertools.pairwise(under))


@pytest.mark.parametrize("most", [1e-9, 0.3, 1, 3.99, 4, 7, 12_345])
def test_ticks_are_few_and_round(most):
    step = chart.tick(most)
    assert 1 <= most / step <= chart.TICKS + 1e-9
    assert f"{step:.0e}"[0] in "125"


@pytest.mark.parametrize("form", [formats.svg, formats.png, formats.pdf])
def test_straight_lines_and_ends_of_texts_are_drawn_in_every_format(form):
    group = Group(
        "all",
        (Stroke(((10, 10), (90, 10)), "#ff0000"), Text(90, 30, "WWW", 12, "#000", anchor="end")),
    )
    drawing = Drawing(100, 40, "title", "words", (group,))
    content = form(drawing)
    if form is formats.svg:
        assert '<polyline points="10,10 90,10"' in content and 'text-anchor="end"' in content
    if form is formats.png:
        image = Image.open(io.BytesIO(content)).convert("L")
        assert image.getpixel((100, 20)) == 76  # red in grey
        dark = [x for x in range(200) if np.asarray(image)[50:72, x].min() < 90]
        assert 150 < max(dark) <= 181
    assert len(content) > 100
