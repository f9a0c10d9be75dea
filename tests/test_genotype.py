"""Genotype values, their forms and what is refused."""

import json

import pytest

from darts_dist import genotype
from darts_dist.errors import GenotypeError

V2 = genotype.PUBLISHED["cnn"]["DARTS_V2"]
EVERY = [(space, name) for space, table in genotype.PUBLISHED.items() for name in table]


@pytest.mark.parametrize(("space", "name"), EVERY)
def test_a_published_genotype_survives_both_forms(space, name):
    value = genotype.PUBLISHED[space][name]
    assert genotype.load(name, space) == value
    assert genotype.load(genotype.to_json(value), space) == value
    assert genotype.load(genotype.to_text(value), space) == value
    assert genotype.from_dict(genotype.to_dict(value)) == value


@pytest.mark.parametrize(
    ("space", "name", "told"),
    [
        (
            "cnn",
            "ENAS",
            "neither a convolutional cell nor an existing file, but a recurrent cell; published:",
        ),
        (
            "rnn",
            "NASNet",
            "neither a recurrent cell nor an existing file, but a convolutional cell; published:",
        ),
    ],
)
def test_a_cell_of_the_other_space_is_told_as_one(space, name, told):
    with pytest.raises(GenotypeError, match=told):
        genotype.load(name, space)


def test_published_cells_have_the_known_sizes():
    sizes = {name: len(value.normal) // 2 for name, value in genotype.PUBLISHED["cnn"].items()}
    assert sizes == {"NASNet": 5, "AmoebaNet": 5, "DARTS_V1": 4, "DARTS_V2": 4, "DARTS": 4}
    assert len(genotype.PUBLISHED["rnn"]["ENAS"].recurrent) == 11
    assert genotype.PUBLISHED["cnn"]["NASNet"].reduce_concat == (4, 5, 6)


def test_json_is_what_the_contract_says():
    tree = json.loads(genotype.to_json(V2))
    assert list(tree) == ["space", "normal", "normal_concat", "reduce", "reduce_concat"]
    assert tree["normal"][0] == ["sep_conv_3x3", 0]
    assert tree["reduce_concat"] == [2, 3, 4, 5]


def test_text_is_the_form_that_the_original_logs():
    text = genotype.to_text(V2)
    assert text.startswith("Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ")
    assert "normal_concat=range(2, 6), reduce=[" in text
    assert genotype.load(f"DARTS_V2 = {text}\n") == V2


def test_a_genotype_is_found_in_a_file_and_in_a_run(tmp_path):
    with pytest.raises(GenotypeError, match=r"has no genotype.json; .* tools/derive_genotype.py"):
        genotype.load(str(tmp_path))
    (tmp_path / "genotype.json").write_text(genotype.to_json(V2))
    (tmp_path / "cell.txt").write_text(genotype.to_text(V2))
    assert genotype.load(str(tmp_path)) == V2
    assert genotype.load(str(tmp_path / "cell.txt"), "cnn") == V2


def test_an_unknown_operation_gets_the_nearest_name():
    with pytest.raises(GenotypeError, match=r"normal\[0\].*'sep_conv3x3'.*mean 'sep_conv_3x3'"):
        genotype.load(genotype.to_text(V2).replace("sep_conv_3x3", "sep_conv3x3", 1))


def test_an_unknown_name_gets_the_nearest_name():
    with pytest.raises(GenotypeError, match="did you mean 'DARTS_V2'"):
        genotype.load("DARTS_v2", "cnn")


def changed(**fields):
    return {**genotype.to_dict(V2), **fields}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (
            changed(normal=[["skip_connect", 0], ["skip_connect", 2]]),
            r"\[1\] takes state 2.*0 to 1",
        ),
        (changed(normal=[["skip_connect", 0], ["skip_connect", -1]]), "state -1"),
        (changed(normal=[["skip_connect", 0], ["skip_connect", True]]), "state True"),
        (changed(normal=[["skip_connect", 0]]), "odd number"),
        (changed(normal=[]), "wanted a list"),
        (changed(normal=[["skip_connect"], 0]), "wanted an .operation, state. pair"),
        (changed(normal="DARTS"), "wanted a list"),
        (changed(normal_concat=[]), "at least one state"),
        (changed(normal_concat=[2, 6]), "state 6; use states of 0 to 5"),
        (changed(reduce_concat=[1, 2]), "state 1; use states of 2 to 5"),
        (changed(space="text"), "'text' is unknown"),
        (changed(extra=1), "unknown field 'extra'"),
        ({"space": "cnn", "normal": []}, "lacks normal_concat, reduce, reduce_concat"),
        ({"recurrent": [["relu", 1]], "concat": [1]}, "does not exist yet"),
        ({"recurrent": [["none", 0]], "concat": [1]}, "unknown operation 'none'"),
        ([1], "an object with named cells"),
    ],
)
def test_a_cell_that_cannot_be_built_is_refused_in_words(tree, said):
    with pytest.raises(GenotypeError, match=said):
        genotype.from_dict(tree)


@pytest.mark.parametrize(
    "text",
    [
        "Genotype(normal=__import__('os').getcwd())",
        "Genotype(normal=[x for x in 'ab'])",
        "Genotype(normal=open('f'))",
        "Genotype(recurrent=[('relu', 1 + 1)], concat=[1])",
        "Genotype(recurrent=[('relu', 0)], concat=range(0, 10 ** 9))",
        "Genotype(recurrent=[('relu', 0)], concat=range(1, 1000000000000))",
        "Genotype([('relu', 0)], [1])",
        "Genotype(**{})",
        "Genotype(recurrent=[('relu', 0)], concat=[1]); print()",
        "Genotype(" + "[" * 5000,
        '{"space": ',
        "{" * 3,
    ],
)
def test_text_is_parsed_and_never_evaluated(text):
    with pytest.raises(GenotypeError):
        genotype.load(text)


def test_a_genotype_of_the_other_space_is_refused(tmp_path):
    path = tmp_path / "cell.json"
    path.write_text(genotype.to_json(genotype.PUBLISHED["rnn"]["ENAS"]))
    with pytest.raises(GenotypeError, match=r"cell\.json: .*space 'rnn'.*needs 'cnn'"):
        genotype.load(str(path), "cnn")
