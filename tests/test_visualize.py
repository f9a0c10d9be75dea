"""The tool that draws genotypes: what it reads and writes, and what it refuses."""

import json
import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from darts_dist import errors, genotype, picture

TOOL = pathlib.Path(__file__).parent.parent / "tools" / "visualize_genotype.py"


def draw(*arguments, **environment):
    """Returns (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )
    return done.returncode, done.stdout, done.stderr


def headings(path):
    """The words of an svg that are no operation and no node."""
    texts = ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")
    return [text for one in texts if "cell" in (text := "".join(one.itertext()))]


def test_a_name_a_file_a_run_and_a_text_are_drawn_alike(tmp_path):
    value = genotype.load("AmoebaNet")
    run = tmp_path / "a run"
    run.mkdir()
    (run / "genotype.json").write_text(genotype.to_json(value))
    (tmp_path / "found.txt").write_text(genotype.to_text(value))
    sources = {
        "AmoebaNet": "AmoebaNet, ",
        str(run): "a run, ",
        str(run / "genotype.json"): "a run, ",
        str(tmp_path / "found.txt"): "found, ",
        genotype.to_text(value): "",
    }
    pictures = []
    for source, title in sources.items():
        out = tmp_path / "cells.svg"
        assert draw(source, out) == (0, f"{out}\n", "")
        assert headings(out) == [f"{title}normal cell", f"{title}reduction cell"]
        drawn = re.sub(r">[^<]*cells?[^<]*<", "><", out.read_text())
        pictures.append(re.sub(r"<desc>.*</desc>", "", drawn))
    assert len(set(pictures)) == 1


def test_one_cell_and_the_space_of_a_name_can_be_asked_for(tmp_path):
    out = tmp_path / "new" / "one.svg"
    assert draw("DARTS_V2", out, "--cell", "reduce")[0] == 0
    assert headings(out) == ["DARTS_V2, reduction cell"]
    assert draw("DARTS_V2", out, "--space", "rnn")[0] == 0
    assert headings(out) == ["DARTS_V2, recurrent cell"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["DARTS_V3", "a.svg"], "did you mean"),
        (["broken.json", "a.svg"], "broken.json: the genotype is not valid JSON"),
        (["wrong.json", "a.svg"], "max_pool_3x3"),
        (["DARTS_V2", "a.jpeg"], "a.jpeg does not end in the name of a format: .svg, .png"),
        (["DARTS_V2", "svg"], "svg does not end"),
        (["DARTS_V2", "a.svg", "--cell", "recurrent"], "it has normal, reduce"),
        (["ENAS", "a.svg", "--space", "cnn"], "'ENAS' is neither"),
        (["DARTS_V2"], "required: OUT"),
    ],
)
def test_what_cannot_be_drawn_is_bad_input_in_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text('{"space": ')
    tree = genotype.to_dict(genotype.load("DARTS_V2"))
    tree["normal"][0][0] = "max_pool_5x5"
    (tmp_path / "wrong.json").write_text(json.dumps(tree))
    code, out, err = draw(*arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert not list(tmp_path.glob("*svg")) + list(tmp_path.glob("*.jpeg"))


def test_a_folder_that_cannot_be_written_is_a_storage_failure(tmp_path):
    (tmp_path / "file").touch()
    code, out, err = draw("DARTS_V2", tmp_path / "file" / "a.svg")
    assert (code, out, len(err.splitlines())) == (5, "", 1)
    assert "cannot be written" in err


def test_a_pdf_without_its_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reportlab.pdfgen.canvas", None)
    value = genotype.load("ENAS")
    with pytest.raises(errors.InputError, match=r"pip install 'darts-dist\[pictures\]'"):
        picture.render(value, "pdf")
    assert picture.render(value, "png")


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("<&>\"'", "<&>\"'"),
        ("a\x01\udc80b", "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"),
        ("細胞" * 40, "細胞" * 29 + "細\N{HORIZONTAL ELLIPSIS}"),
    ],
)
def test_any_title_makes_a_whole_picture(title, shown):
    made = {form: picture.render(genotype.load("ENAS"), form, title) for form in picture.FORMATS}
    root = ElementTree.fromstring(made["svg"])
    assert root[0].text == f"{shown}, recurrent cell"
    assert root[1].text.endswith("h_{t} is the mean of 2, 5, 6, 9, 10, 11.")
    assert all(made.values())
