"""Networks as tables of text: what each part gets and gives, its parameters, its multiply-adds.

Place: layer 1, between configs and `nets.costs`. Parameters are counted in the tree that holds
them, multiply-adds by the mathematics.
"""

import jax

from darts_dist.config import Config
from darts_dist.genotype import CnnGenotype
from darts_dist.nets import costs
from darts_dist.trainconfig import TrainConfig

TITLE = "the network; multiply-adds are of convolutions and linear layers, for one picture"
HEAD = ("part", "gets", "gives, N x H x W x C", "parameters", "multiply-adds")


def of_search(config: Config, classes: int, params, batch: int) -> str:
    """Returns the search network of so many classes as a table.

    params: its tree, or the shapes of that.  batch: pictures of a device.
    """
    return _text(_parts_of_search(config, classes), params, batch)


def of_genotype(config: TrainConfig, value: CnnGenotype, classes: int, params, batch: int) -> str:
    """Returns the network of a genotype as a table, otherwise like `of_search`.

    The auxiliary head, which only training has, costs nothing.
    """
    return _text(_parts(config, value, classes), params, batch)


def multiply_adds_of_search(config: Config, classes: int) -> int:
    """Returns those of the search network for one picture."""
    return sum(part.multiply_adds for part in _parts_of_search(config, classes))


def multiply_adds(config: TrainConfig, value: CnnGenotype, classes: int) -> int:
    """Returns those of a genotype's network for one picture, the auxiliary head's not counted."""
    return sum(part.multiply_adds for part in _parts(config, value, classes))


def _parts_of_search(config: Config, classes: int) -> list[costs.Part]:
    sizes = config.network
    return costs.supernet(
        _picture(sizes),
        stem=sizes.stem,
        channels=sizes.channels,
        layers=sizes.layers,
        nodes=sizes.nodes,
        classes=classes,
        operations=config.space.operations,
    )


def _parts(config: TrainConfig, value: CnnGenotype, classes: int) -> list[costs.Part]:
    sizes = config.network
    return costs.network(
        _picture(sizes),
        value,
        stem=sizes.stem,
        channels=sizes.channels,
        layers=sizes.layers,
        classes=classes,
    )


def count(tree) -> int:
    """Returns how many numbers a tree of arrays, or of their shapes, holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _picture(sizes) -> costs.Map:
    return sizes.image_px, sizes.image_px, sizes.in_channels


def _text(parts: list[costs.Part], params, batch: int) -> str:
    rest = dict(params)
    stem, cells, auxiliary = rest.pop("stem"), rest.pop("cells"), rest.pop("auxiliary", {})
    held = [stem, *(cells[at] for at in sorted(cells, key=int)), rest]
    rows: list[tuple[str, ...]] = [HEAD]
    for at, (part, tree) in enumerate(zip(parts, held, strict=True)):
        name = part.kind if tree is stem or tree is rest else f"cell {at - 1}, {part.kind}"
        gives = "x".join(map(str, (batch, *part.output)))
        rows.append((name, _gets(part), gives, f"{count(tree):,}", f"{part.multiply_adds:,}"))
    if auxiliary:
        rows.append(("auxiliary head", "", "", f"{count(auxiliary):,}", "0"))
    whole = sum(part.multiply_adds for part in parts)
    rows.append(("sum", "", "", f"{count(params):,}", f"{whole:,}"))
    return _aligned(TITLE, rows, 3)


def of_language(params, products: int) -> str:
    """Returns a language model as a table.

    params: its tree, or the shapes of that.  products: of a state and a node's matrix in a step.
    """
    parts, cell = language_parts(params, products), params["cell"]
    sizes = {
        "matrix of words, in and out": count(params["embedding"]),
        "cell": count(cell),
        "bias of words": count(params["bias"]),
    }
    rows: list[tuple[str, ...]] = [("part", "parameters", "multiply-adds")]
    rows += [(name, f"{size:,}", f"{parts.get(name, 0):,}") for name, size in sizes.items()]
    rows.append(("sum", f"{count(params):,}", f"{sum(parts.values()):,}"))
    return _aligned("the network; multiply-adds are of matrix products, for one word", rows, 1)


def language_parts(params, products: int) -> dict[str, int]:
    """Returns the multiply-adds of a language model for one word, by part; see `of_language`."""
    cell = params["cell"]
    node = cell["nodes"].size // len(cell["nodes"]) if products else 0
    return {
        "matrix of words, in and out": params["embedding"].size,
        "cell": cell["first"].size + products * node,
    }


def _aligned(title: str, rows: list[tuple[str, ...]], words: int) -> str:
    """Rows as lines; the first `words` columns to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [title]
    for row in rows:
        texts = map(str.ljust, row[:words], widths[:words])
        lines.append("  ".join([*texts, *map(str.rjust, row[words:], widths[words:])]))
    return "\n".join(lines)


def _gets(part: costs.Part) -> str:
    """The maps that a part gets; "halved" where a cell has to make it as small as the other."""
    sides = part.inputs[-1][:2]
    return ", ".join(
        "x".join(map(str, one)) + ("" if one[:2] == sides else " halved") for one in part.inputs
    )
