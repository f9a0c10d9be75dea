"""The graphs of a genotype's cells, as they are drawn: who leads to whom by which operation.

Pure and standard library only. A graph knows nothing of places and colours.
"""

import dataclasses

from darts_dist.genotype import CnnGenotype, Entries, Genotype

HEADINGS = {"normal": "normal cell", "reduce": "reduction cell", "recurrent": "recurrent cell"}


@dataclasses.dataclass(frozen=True)
class Edge:
    """One state on its way to a node; `operation` is "" where it arrives as it is."""

    source: int
    target: int
    operation: str = ""


@dataclasses.dataclass(frozen=True)
class Graph:
    """One cell: two inputs, its nodes in order, the output last; edges point to later ones."""

    names: tuple[str, ...]
    edges: tuple[Edge, ...]
    join: str

    def describe(self) -> str:
        """Returns the cell in words: what each node takes, and what the output is made of."""
        sentences = []
        for target, name in enumerate(self.names):
            taken = [edge for edge in self.edges if edge.target == target]
            sources = [self.names[edge.source] for edge in taken]
            if target == len(self.names) - 1:
                sentences.append(f"{name} is the {self.join} of {', '.join(sources)}")
            elif taken:
                terms = [
                    f"{edge.operation} of {source}" if edge.operation else source
                    for edge, source in zip(taken, sources, strict=True)
                ]
                sentences.append(f"{name} takes {' and '.join(terms)}")
        return "; ".join(sentences) + "."


def cells(genotype: Genotype) -> dict[str, Graph]:
    """Returns the graph of each cell, by the name of its field: "normal" and so on."""
    if isinstance(genotype, CnnGenotype):
        return {
            "normal": _convolutional(genotype.normal, genotype.normal_concat),
            "reduce": _convolutional(genotype.reduce, genotype.reduce_concat),
        }
    entries = genotype.recurrent
    names = ("x_{t}", "h_{t-1}", *map(str, range(len(entries) + 1)), "h_{t}")
    edges = [Edge(0, 2), Edge(1, 2)]
    edges += [Edge(state + 2, at + 3, name) for at, (name, state) in enumerate(entries)]
    edges += [Edge(state + 2, len(names) - 1) for state in genotype.concat]
    return {"recurrent": Graph(names, tuple(edges), "mean")}


def _convolutional(entries: Entries, concat: tuple[int, ...]) -> Graph:
    names = ("c_{k-2}", "c_{k-1}", *map(str, range(len(entries) // 2)), "c_{k}")
    edges = [Edge(state, at // 2 + 2, name) for at, (name, state) in enumerate(entries)]
    edges += [Edge(state, len(names) - 1) for state in concat]
    return Graph(names, tuple(edges), "concatenation")
