"""Pictures of cells: whole, true to the concat, the same every time, in every format."""

import xml.etree.ElementTree as ElementTree

import pytest

from darts_dist import genotype, picture

NAMES = [(name, space) for space, table in genotype.PUBLISHED.items() for name in table]
BEGINS = {"svg": b"<", "png": b"\x89PNG", "pdf": b"%PDF", "dot": b"digraph"}


def texts(svg):
    """The words in an svg, those of a subscript joined to what is before it."""
    root = ElementTree.fromstring(svg)
    return ["".join(one.itertext()) for one in root.iter() if one.tag.endswith("}text")]


@pytest.mark.parametrize("name, space", NAMES)
def test_every_operation_of_a_published_genotype_is_written_once(name, space):
    value = genotype.load(name, space)
    tree = genotype.to_dict(value)
    cells = [tree["normal"], tree["reduce"]] if space == "cnn" else [tree["recurrent"]]
    wanted = sorted(operation for cell in cells for operation, _ in cell)
    found = texts(picture.render(value, "svg", name))
    assert sorted(word for word in found if word in wanted) == wanted


@pytest.mark.parametrize("form", picture.FORMATS)
def test_a_picture_has_the_same_bytes_every_time(form):
    value = genotype.load("DARTS_V2", "cnn")
    one, other = (picture.render(value, form, "a < b & c") for _ in range(2))
    assert one == other
    assert one.startswith(BEGINS[form])


def test_only_nodes_of_the_concat_lead_to_the_output():
    entries = [["skip_connect", 0], ["skip_connect", 1]] * 3
    tree = {"normal": entries, "normal_concat": [3], "reduce": entries, "reduce_concat": [2, 3, 4]}
    value = genotype.from_dict({"space": "cnn", **tree}, "cnn")
    few, all_of_them = (
        picture.render(value, "dot", "", (cell,)).decode().count("->")
        for cell in ("normal", "reduce")
    )
    assert all_of_them - few == 2
