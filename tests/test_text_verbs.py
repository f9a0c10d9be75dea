"""The verbs on texts, from the command line to what they leave: resumed, scored, refused."""

import json
import math
import shutil

import numpy as np
import pytest

from darts_dist import cli, genotype, torchfile
from darts_dist.interop_recurrent import recurrent_to_torch

CELL = '{"space": "rnn", "recurrent": [["tanh", 0], ["relu", 1]], "concat": [1, 2]}'
SIZES = (
    "space.kind=rnn",
    "data.kind=text",
    "network.channels=4",
    "data.global_batch=8",
    "data.window=5",
    "weights.learning_rate=2",
    "log.every_steps=2",
    "checkpoint.every_steps=2",
    "checkpoint.keep=99",
    "evaluation.batch=3",
)
SEARCH = (
    "network.nodes=1",
    "method.preset=darts_first",
    "seeds.count=2",
    "mesh.seed=2",
    "mesh.data=1",
)
TRAIN = (
    f"genotype={CELL}",
    "data.excess=3",
    "data.sizes=[]",
    "evaluation.test_batch=1",
    "weights.patience=1",
    "schedule.steps_per_epoch=3",
    "schedule.epochs=6",
    "seeds.count=2",
    "mesh.data=1",
    "mesh.seed=1",
)


def darts(*words):
    return cli.main([str(word) for word in words])


def texts(folder, **others):
    """Writes three texts of ten words; others: contents by split, None for no file."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    for split, lines in (("train", 60), ("valid", 20), ("test", 8)):
        words = [[f"w{at}" for at in draw.integers(0, 10, 6)] for _ in range(lines)]
        content = others.get(split, "\n".join(map(" ".join, words)).encode())
        if content is not None:
            (folder / f"{split}.txt").write_bytes(content)
    return folder


def read(folder, name="result.json"):
    return json.loads((folder / name).read_text())


def interrupted(run, folder, step):
    """Returns a copy of a run as it was when it had been killed right after a checkpoint."""
    shutil.copytree(run, folder)
    (folder / "result.json").unlink()
    for one in (folder / "checkpoints").iterdir():
        if one.name.isdigit() and int(one.name) > step:
            shutil.rmtree(one)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return texts(tmp_path_factory.mktemp("texts") / "data")


@pytest.fixture(scope="module")
def searched(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "run"
    words = (*SIZES, *SEARCH, f"data.path={data}", "schedule.epochs=2", "--workdir", folder)
    assert darts("search", *words) == 0
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    assert darts("train", *SIZES, *TRAIN, f"data.path={data}", "--workdir", folder) == 0
    return folder


@pytest.mark.medium
def test_a_search_finds_a_cell_a_seed_and_tells_perplexities(searched):
    result = read(searched)
    lines = [json.loads(line) for line in (searched / "genotypes.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1, 0, 1]
    for one in (*result["seeds"], *lines):
        assert genotype.from_dict(one["genotype"], "rnn").recurrent[0][1] == 0
        for part in ("train", "valid"):
            assert one[f"{part}_perplexity"] == pytest.approx(math.exp(one[f"{part}_loss"]))
    assert genotype.load(str(searched)).space == "rnn"
    assert (searched / "cells" / "seed-1-recurrent.svg").exists()
    with np.load(searched / "alphas.npz") as alphas:
        assert alphas["recurrent"].shape == (2, 2, 1, 5)


@pytest.mark.medium
def test_select_ranks_the_cells_by_perplexity(searched, tmp_path, capsys):
    folder = tmp_path / "searched"
    shutil.copytree(searched, folder)
    sizes = ("network.channels=4", "data.global_batch=8", "data.window=5", "data.sizes=[]")
    rest = (
        "schedule.steps_per_epoch=2",
        "schedule.epochs=1",
        "evaluation.batch=3",
        "mesh.data=1",
        "mesh.seed=1",
    )
    assert darts("select", folder, *sizes, "data.excess=3", *rest) == 0
    assert "perplexity" in capsys.readouterr().out
    found = read(folder, "selection.json")
    perplexities = [cell["valid_perplexity_mean"] for cell in found["cells"]]
    assert perplexities == sorted(perplexities)
    assert {cell["cell"] for cell in found["cells"]} == {"seed-0", "seed-1", "random-0"}
    (best,) = (cell for cell in found["cells"] if cell["seed"] == found["best_seed"])
    assert genotype.load(str(folder)) == genotype.from_dict(best["genotype"])


@pytest.mark.medium
def test_a_search_that_was_interrupted_ends_as_one_that_was_not(searched, data, tmp_path):
    steps = sorted(int(one.name) for one in (searched / "checkpoints").iterdir())
    folder = interrupted(searched, tmp_path / "again", steps[len(steps) // 2])
    words = (*SIZES, *SEARCH, f"data.path={data}", "schedule.epochs=2", "--workdir", folder)
    assert darts("search", *words) == 0
    assert read(folder)["state_digest"] == read(searched)["state_digest"]
    assert read(folder)["resumed_from"]
    same = (folder / "genotypes.jsonl").read_text() == (searched / "genotypes.jsonl").read_text()
    assert same


@pytest.mark.medium
@pytest.mark.parametrize("step", [2, 16])  # before any averaging, and while one seed averages
def test_a_training_that_was_interrupted_ends_as_one_that_was_not(step, trained, data, tmp_path):
    lines = [json.loads(line) for line in (trained / "epochs.jsonl").read_text().splitlines()]
    assert any(line["averages"] for line in lines if line["step"] <= 16)
    assert not any(line["averages"] for line in lines if line["step"] <= 3)
    folder = interrupted(trained, tmp_path / "again", step)
    assert darts("train", *SIZES, *TRAIN, f"data.path={data}", "--workdir", folder) == 0
    assert read(folder)["resumed_from"] == [step]
    assert read(folder)["state_digest"] == read(trained)["state_digest"]
    assert (folder / "epochs.jsonl").read_text() == (trained / "epochs.jsonl").read_text()


@pytest.mark.medium
def test_a_training_is_scored_with_its_best_weights(trained, capsys):
    lines = [json.loads(line) for line in (trained / "epochs.jsonl").read_text().splitlines()]
    for one in read(trained)["seeds"]:
        own = [line["valid_loss"] for line in lines if line["seed"] == one["seed"]]
        assert one["valid_loss"] == pytest.approx(min(own), rel=1e-6)
        assert one["test_perplexity"] == pytest.approx(math.exp(one["test_loss"]))
    capsys.readouterr()
    assert darts("evaluate", trained, "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    for one, own in zip(found["seeds"], read(trained)["seeds"], strict=True):
        assert {key: own[key] for key in one} == one
    assert found["metrics"]["words"] == 8 * 7 - 1  # a line's six words and its end mark


def params_of(words, seed=0):
    draw = np.random.default_rng(seed)
    shapes = {"embedding": (words, 4), "cell": {"first": (8, 8), "nodes": (2, 4, 8)}}
    tree = {
        "embedding": draw.normal(size=shapes["embedding"]),
        "cell": {name: draw.normal(size=shape) for name, shape in shapes["cell"].items()},
        "bias": draw.normal(size=words),
    }
    return {name: np.float32(one) for name, one in recurrent_to_torch(tree, twice=True).items()}


@pytest.mark.medium
def test_a_file_of_pytorch_is_scored_and_one_of_other_sizes_refused(data, tmp_path, capsys):
    more = ("data.kind=text", f"data.path={data}", "data.global_batch=8", "data.window=5")
    more = (*more, f"genotype={CELL}", "evaluation.batch=3")
    torchfile.write(tmp_path / "fits.pt", params_of(11))
    torchfile.write(tmp_path / "other.pt", params_of(12))
    assert darts("evaluate", tmp_path / "fits.pt", *more, "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["seeds"][0]
    assert math.log(found["test_perplexity"]) == pytest.approx(found["test_loss"])
    assert darts("evaluate", tmp_path / "other.pt", *more) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "12 words, 4 channels, 2 nodes" in told and "make 11 words" in told


@pytest.mark.parametrize(
    ("others", "words", "message"),
    [
        ({"valid": None}, (), "has no valid.txt"),
        ({"test": b""}, (), "test.txt holds no words"),
        ({"train": b"w0 w1\n\xff\xfe w2"}, (), "train.txt: line 2 is not UTF-8 text"),
        ({"test": b"w0 new w1"}, ("data.new_words=stop",), "line 1: train.txt has no 'new'"),
        ({"test": b"w0 new w1"}, ("data.new_words=unknown",), "and no <unk> to take it for"),
        (
            {},
            ("data.global_batch=400",),
            "data/train.txt of 420 words does not fill two rows of 400",
        ),
        ({}, ("data.window=200",), "windows of 200 words need a text of at least 201 rows"),
        ({}, ("network.layers=3",), "network.layers is not a key"),
        ({}, ("weights.average=sometimes",), "wanted always | never | when_halted"),
        ({}, ("genotype=DARTS_V3",), "DARTS_V3"),
    ],
)
def test_bad_input_is_one_line_and_code_2(others, words, message, tmp_path, capsys):
    path = texts(tmp_path / "data", **others)
    rest = (f"data.path={path}", "mesh.data=1", "mesh.seed=1", "seeds.count=1", *words)
    sizes = [one for one in (*SIZES, *TRAIN) if not one.startswith(("seeds.", "mesh."))]
    assert darts("train", *sizes, *rest, "--workdir", tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and message in told


@pytest.mark.medium
def test_a_word_that_training_lacks_gets_a_number_or_is_unknown(tmp_path):
    path = texts(tmp_path / "data", test=b"w0 new w1 w2 w3", train=b"<unk> w0 w1 w2 w3\n" * 40)
    for policy, count in (("add", 13), ("unknown", 6)):
        folder = tmp_path / policy
        rest = (f"data.path={path}", f"data.new_words={policy}", "schedule.epochs=1")
        assert darts("train", *SIZES, *TRAIN, *rest, "--workdir", folder) == 0
        found = read(folder)["metrics"]["parameters"]
        assert found == count * 4 + 8 * 8 + 2 * 4 * 8 + count
        assert math.isfinite(read(folder)["seeds"][0]["test_loss"])
