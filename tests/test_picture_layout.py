"""Layouts of cells: nothing lies over a box or a label, and lines go from node to node."""

import itertools
import random

import pytest
from PIL import ImageFont

from darts_dist import genotype, picture
from darts_dist.picture import layout

OPERATIONS = genotype.CNN_OPERATIONS


def random_cell(nodes, seed):
    draw = random.Random(seed)
    entries = [(draw.choice(OPERATIONS), draw.randrange(at // 2 + 2)) for at in range(2 * nodes)]
    concat = draw.sample(range(2, nodes + 2), draw.randint(1, nodes))
    return genotype.CnnGenotype(entries, concat, entries, concat)


CHAIN = genotype.CnnGenotype(
    [("sep_conv_5x5", at + 1) for at in range(5) for _ in range(2)],
    (6,),
    [("none", 0), ("skip_connect", 0)],
    (2, 2),
)
VALUES = {
    **{
        f"{space} {name}": value
        for space in ("cnn", "rnn")
        for name, value in genotype.PUBLISHED[space].items()
    },
    "chain": CHAIN,
    **{f"random {nodes}": random_cell(nodes, nodes) for nodes in (1, 5, 7, 12)},
}
GRAPHS = {
    f"{name} {cell}": graph
    for name, value in VALUES.items()
    for cell, graph in picture.cells(value).items()
}


def sides(box):
    """Left, top, right and bottom of a box."""
    wide, high = box.width / 2, box.height / 2
    return box.x - wide, box.y - high, box.x + wide, box.y + high


@pytest.fixture(params=GRAPHS, scope="module")
def drawn(request):
    graph = GRAPHS[request.param]
    return graph, layout.place(graph)


def test_no_box_and_no_label_touches_another_or_leaves_the_picture(drawn):
    _, placed = drawn
    every = [sides(box) for box in (*placed.boxes, *filter(None, placed.labels))]
    for a, b in itertools.combinations(every, 2):
        apart = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
        assert apart >= 7.99
    for left, top, right, bottom in every:
        assert min(left, top) >= -1e-9
        assert right <= placed.width + 1e-9
        assert bottom <= placed.height + 1e-9


def test_a_line_goes_from_its_source_to_its_target_and_always_to_the_right(drawn):
    graph, placed = drawn
    for edge, line in zip(graph.edges, placed.lines, strict=True):
        source, target = sides(placed.boxes[edge.source]), sides(placed.boxes[edge.target])
        assert line[0][:2] == (pytest.approx(source[2]), placed.boxes[edge.source].y)
        assert line[-1][2] == pytest.approx(target[0])
        assert target[1] < line[-1][3] < target[3]
        for x0, _, x1, _ in line:
            assert x1 - x0 >= layout.GAP_PX[0] - 1e-9
        for (_, _, x1, y1), (x2, y2, _, _) in itertools.pairwise(line):
            assert x1 <= x2
            assert y1 == y2


def test_no_line_runs_over_a_box_or_the_label_of_another(drawn):
    _, placed = drawn
    for at, line in enumerate(placed.lines):
        others = [one for place, one in enumerate(placed.labels) if one and place != at]
        for left, top, right, bottom in map(sides, (*placed.boxes, *others)):
            for x0, _, x1, _ in line:  # lines bend where no column is
                assert x1 <= left + 1e-9 or x0 >= right - 1e-9
            for (_, _, x1, y), (x2, _, _, _) in itertools.pairwise(line):
                assert x2 <= left or x1 >= right or not top - 5 < y < bottom + 5


def test_a_line_runs_through_the_middle_of_its_label(drawn):
    graph, placed = drawn
    for edge, label, line in zip(graph.edges, placed.labels, placed.lines, strict=True):
        assert (label is None) == (edge.operation == "")
        if label is not None:
            left, _, right, _ = sides(label)
            assert (*line[-2][2:], *line[-1][:2]) == pytest.approx((left, label.y, right, label.y))


def test_two_lines_never_enter_a_box_at_the_same_place(drawn):
    graph, placed = drawn
    ends = [
        (edge.target, line[-1][3]) for edge, line in zip(graph.edges, placed.lines, strict=True)
    ]
    assert len(set(ends)) == len(ends)


def test_one_graph_has_one_layout(drawn):
    graph, placed = drawn
    assert layout.place(graph) == placed


@pytest.mark.parametrize("operation", OPERATIONS + genotype.RNN_OPERATIONS)
def test_every_operation_fits_its_label(operation):
    entries = [(operation, 0)] * 2 if operation in OPERATIONS else [(operation, 0)]
    if operation in OPERATIONS:
        value = genotype.CnnGenotype(entries, (2,), entries, (2,))
    else:
        value = genotype.RnnGenotype(entries, (1,))
    label = next(filter(None, layout.place(next(iter(picture.cells(value).values()))).labels))
    assert ImageFont.load_default(12).getlength(operation) + 12 < label.width


@pytest.mark.parametrize("seed", range(20))
def test_fewer_lines_cross_than_in_the_order_of_the_genotype(seed):
    graph = picture.cells(random_cell(6, seed))["normal"]
    columns, _, paths = layout._columns(graph)
    pairs = [pair for path in paths for pair in itertools.pairwise(path)]
    links = [layout._Link(left, right, 1.0) for left, right in pairs]
    after = {item: [] for column in columns for item in column}
    for left, right in pairs:
        after[left].append(right)
    ordered = layout._order(columns, links)
    assert list(map(sorted, ordered)) == list(map(sorted, columns))
    before = layout._crossings(columns, after)
    crossing = layout._crossings(ordered, after)
    assert crossing < before or crossing == before == 0


@pytest.mark.parametrize("seed", range(5))
def test_rising_values_are_the_nearest_that_do_not_fall(seed):
    draw = random.Random(seed)
    wanted = [draw.uniform(-1, 1) for _ in range(6)]
    weights = [draw.uniform(0.5, 2) for _ in range(6)]
    found = layout._rising(wanted, weights)
    assert found == sorted(found)

    def miss(values):
        return sum(w * (a - b) ** 2 for w, a, b in zip(weights, values, wanted, strict=True))

    for _ in range(500):
        other = sorted(value + draw.uniform(-0.2, 0.2) for value in found)
        assert miss(found) <= miss(other)
