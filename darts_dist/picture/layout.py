"""Where the boxes, labels and lines of a cell's graph go: columns from left to right.

A box stands in the column of its longest path from an input; between two columns of boxes is one of
labels. A line has a place of its own in every column that it passes, so nothing lies over a box or
a label, and lines bend and cross in the gaps between columns alone. Pure arithmetic without chance:
one graph has one layout. An item is what has a place in a column: a box, a label, a passing line.
"""

import bisect
import dataclasses
import itertools

from darts_dist.picture.graph import Graph

CHARACTER_PX = 7.3  # the widest that letters of a label are on average, in fonts that may be there
PORT_PX = 12  # between two lines that enter one box
GAP_PX = (34, 120)  # between two columns, at least and at most
ROUNDS = 12  # of ordering; small cells are settled after two
SWEEPS = (100, 200)  # of straightening, from left to right and back: softly, then sharply
STRAIGHT = 8.0  # how much straighter than at its ends a line is between two places of its own
LEVEL_PX = 0.2  # a smaller rise counts as none in the sharp sweeps


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle by its middle and its sides."""

    x: float
    y: float
    width: float
    height: float


Bend = tuple[float, float, float, float]
"""x and y where a line leaves a column, x and y where it enters the next."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Boxes by node, labels and lines by edge; a label is None where an edge has no operation.

    A line is its bends; from the end of one to the start of the next it runs level.
    """

    width: float
    height: float
    boxes: list[Box]
    labels: list[Box | None]
    lines: list[list[Bend]]


@dataclasses.dataclass
class _Item:
    """One place: its size, the free space above and below, and its middle."""

    width: float = 0.0
    height: float = 0.0
    clear: float = 6.0
    y: float = 0.0


@dataclasses.dataclass
class _Link:
    """A piece of a line, to the next column; `port` is how far from the right item's middle."""

    left: int
    right: int
    weight: float
    port: float = 0.0


def place(graph: Graph) -> Layout:
    """Returns the layout of a graph, its upper left corner at 0, 0."""
    columns, items, paths = _columns(graph)
    places = range(len(graph.names))
    links = [
        _Link(left, right, STRAIGHT if left not in places and right not in places else 1.0)
        for path in paths
        for left, right in itertools.pairwise(path)
    ]
    columns = _order(columns, links)
    _spread_ports(columns, links, places)
    _straighten(columns, items, links)
    spans = _spans(columns, items, links)
    top = min(item.y - item.height / 2 for item in items)
    for item in items:
        item.y -= top

    def box(at: int) -> Box:
        left, right = spans[at]
        return Box((left + right) / 2, items[at].y, right - left, items[at].height)

    pieces = iter(links)
    lines = []
    for path in paths:
        own = itertools.islice(pieces, len(path) - 1)
        ends = [(one.left, one.right, items[one.right].y + one.port) for one in own]
        lines.append([(spans[a][1], items[a].y, spans[b][0], y) for a, b, y in ends])
    labels = [
        box(path[-2]) if edge.operation else None
        for edge, path in zip(graph.edges, paths, strict=True)
    ]
    width = max(right for _, right in spans)
    height = max(item.y + item.height / 2 for item in items)
    return Layout(width, height, [box(at) for at in places], labels, lines)


def _columns(graph: Graph) -> tuple[list[list[int]], list[_Item], list[list[int]]]:
    """Returns columns of items, the items, nodes first, and each edge's path through them.

    A label is next to the box that its operation leads to.
    """
    depth = [0] * len(graph.names)
    last = len(depth) - 1
    for edge in sorted(graph.edges, key=lambda edge: edge.target):
        depth[edge.target] = max(depth[edge.target], depth[edge.source] + 1)
    depth[last] = max(depth[:last]) + 1
    items = []
    for at, name in enumerate(graph.names):
        entering = sum(edge.target == at for edge in graph.edges)
        width = 34.0 if name.isdecimal() else 58.0
        items.append(_Item(width, max(32.0, PORT_PX * entering + 10.0), clear=9.0))
    columns: list[list[int]] = [[] for _ in range(2 * depth[last] + 1)]
    for at, column in enumerate(depth):
        columns[2 * column].append(at)
    labelled = {2 * depth[edge.target] - 1 for edge in graph.edges if edge.operation}
    paths = []
    for edge in graph.edges:
        end = 2 * depth[edge.target]
        path = [edge.source]
        for column in range(2 * depth[edge.source] + 1, end):
            if column % 2 and column not in labelled:
                continue  # no label stands there: lines cross it in the gap
            path.append(len(items))
            columns[column].append(len(items))
            if edge.operation and column == end - 1:
                width = 18 + CHARACTER_PX * len(edge.operation)
                items.append(_Item(width, 22.0, clear=4.0))
            else:
                items.append(_Item())
        paths.append([*path, edge.target])
    return [column for column in columns if column], items, paths


def _order(columns: list[list[int]], links: list[_Link]) -> list[list[int]]:
    """Returns the columns, each in the order in which few lines cross.

    Items go to the mean place of their neighbours, column after column in both directions; then
    neighbours change places where that helps. The least crossed of all rounds is taken.
    """
    before: dict[int, list[int]] = {item: [] for column in columns for item in column}
    after: dict[int, list[int]] = {item: [] for item in before}
    for link in links:
        before[link.right].append(link.left)
        after[link.left].append(link.right)
    best, fewest = columns, _crossings(columns, after)
    for at in range(ROUNDS):
        sides, towards = (columns, before) if at % 2 == 0 else (columns[::-1], after)
        rank: dict[int, float] = {}
        arranged = []
        for column in sides:
            mean = {
                item: sum(rank[one] for one in towards[item]) / len(towards[item])
                if towards[item]
                else float(place)
                for place, item in enumerate(column)
            }
            arranged.append(sorted(column, key=mean.__getitem__))
            rank |= {item: float(place) for place, item in enumerate(arranged[-1])}
        columns = arranged if at % 2 == 0 else arranged[::-1]
        _swap(columns, before, after)
        crossings = _crossings(columns, after)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    if best[0][0] != 0:  # the older input stands above: a mirrored picture crosses as often
        best = [column[::-1] for column in best]
    return best


def _swap(columns: list[list[int]], before: dict[int, list[int]], after: dict[int, list[int]]):
    """Lets neighbours in a column change places, in place, while lines cross less by it."""
    rank = {item: place for column in columns for place, item in enumerate(column)}

    def crossed(upper: int, lower: int) -> int:
        return sum(
            rank[a] > rank[b] for side in (before, after) for a in side[upper] for b in side[lower]
        )

    better = True
    while better:
        better = False
        for column in columns:
            for place in range(len(column) - 1):
                upper, lower = column[place : place + 2]
                if crossed(lower, upper) < crossed(upper, lower):
                    column[place : place + 2] = lower, upper
                    rank[upper], rank[lower] = rank[lower], rank[upper]
                    better = True


def _crossings(columns: list[list[int]], after: dict[int, list[int]]) -> int:
    """Returns how many pairs of lines cross in all gaps."""
    found = 0
    for left, right in itertools.pairwise(columns):
        rank = {item: place for place, item in enumerate(right)}
        ends: list[int] = []
        for item in left:
            own = sorted(rank[one] for one in after[item])
            found += sum(len(ends) - bisect.bisect_right(ends, end) for end in own)
            for end in own:
                bisect.insort(ends, end)
    return found


def _spread_ports(columns: list[list[int]], links: list[_Link], places: range) -> None:
    """Lets the lines into a box end one below the other, in the order in which they come."""
    rank = {item: place for column in columns for place, item in enumerate(column)}
    entering: dict[int, list[_Link]] = {}
    for link in links:
        if link.right in places:
            entering.setdefault(link.right, []).append(link)
    for own in entering.values():
        for place, link in enumerate(sorted(own, key=lambda link: rank[link.left])):
            link.port = PORT_PX * (place - (len(own) - 1) / 2)


def _straighten(columns: list[list[int]], items: list[_Item], links: list[_Link]) -> None:
    """Sets `y` of all items so that lines rise and fall little and nothing comes too close.

    Column after column takes the places that have the least sum of weighted squared rises, for the
    columns beside it as they are.
    """
    near: dict[int, list[tuple[int, float, float]]] = {at: [] for at in range(len(items))}
    for link in links:
        near[link.right].append((link.left, -link.port, link.weight))
        near[link.left].append((link.right, link.port, link.weight))
    depths = []
    for column in columns:
        depth, y = [], 0.0
        for above, at in zip([column[0], *column], column, strict=False):
            room = items[above].height / 2 + items[above].clear
            y += 0.0 if above == at else room + items[at].height / 2 + items[at].clear
            depth.append(y)
        depths.append(depth)
        for at, y in zip(column, depth, strict=True):
            items[at].y = y - depth[-1] / 2
    passes = [*range(len(columns)), *reversed(range(len(columns) - 1))]
    for sweep, at in itertools.product(range(sum(SWEEPS)), passes):
        wanted, weights = [], []
        for item, depth in zip(columns[at], depths[at], strict=True):
            total = pull = 0.0
            for one, port, weight in near[item]:
                goal = items[one].y + port
                if sweep >= SWEEPS[0] and weight == STRAIGHT:
                    weight *= 10 / max(abs(goal - items[item].y), LEVEL_PX)
                total += weight
                pull += weight * goal
            wanted.append((pull / total if total else items[item].y) - depth)
            weights.append(total or 1.0)
        for item, y, depth in zip(columns[at], _rising(wanted, weights), depths[at], strict=True):
            items[item].y = y + depth


def _rising(wanted: list[float], weights: list[float]) -> list[float]:
    """Returns the values nearest to the wanted ones of which none is below the one before it.

    Nearest in the sum of weighted squares: values that fall are pooled into their mean.
    """
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(wanted, weights, strict=True):
        count = 1
        while pools and pools[-1][0] > value:
            other, more, others = pools.pop()
            value = (other * more + value * weight) / (more + weight)
            weight, count = weight + more, count + others
        pools.append((value, weight, count))
    return [value for value, _, count in pools for _ in range(count)]


def _spans(
    columns: list[list[int]], items: list[_Item], links: list[_Link]
) -> list[tuple[float, float]]:
    """Returns where each item begins and ends from left to right; all of a column are as wide.

    A gap is wider where lines rise more.
    """
    column_of = {item: at for at, column in enumerate(columns) for item in column}
    rises = [0.0] * len(columns)
    for link in links:
        rise = abs(items[link.left].y - items[link.right].y - link.port)
        rises[column_of[link.left]] = max(rises[column_of[link.left]], rise)
    spans, x = [(0.0, 0.0)] * len(items), 0.0
    for column, rise in zip(columns, rises, strict=True):
        width = max(items[item].width for item in column)
        for item in column:
            spans[item] = (x, x + width)
        x += width + min(max(GAP_PX[0], 20 + 0.4 * rise), GAP_PX[1])
    return spans
