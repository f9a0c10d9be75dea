"""Whole recurrent networks that the original pickled: parity, perplexity, what is refused."""

import importlib
import json
import math
import shutil

import numpy as np
import pytest
from parity import checkpoints_rnn, vectors
from parity_files import VECTORS, check

from darts_dist import cli, genotype, interop_recurrent, torchfile, weightfile
from darts_dist.errors import CheckpointError, DataError

FOLDER = VECTORS / checkpoints_rnn.FOLDER
FILES = ("ptb_model_legacy031_cuda.pt", "ptb_model_zip.pt")


@pytest.mark.medium
def test_a_file_of_each_container_is_the_originals():
    assert check(VECTORS, "checkpoints_rnn") == 0


@pytest.mark.medium
def test_one_changed_number_fails():
    case = checkpoints_rnn.read_cases(FOLDER)[0]
    found = checkpoints_rnn.outputs(FOLDER, case, 32)
    wanted = {name: value * (1 + 1e-4) for name, value in case.wanted[32].items()}
    rows = vectors.compare("", case.name, "", found, wanted, lambda _: 1e-5)
    assert not any(row.passed for row in rows)


def test_missing_files_and_other_sizes_fail(tmp_path, capsys):
    folder = tmp_path / checkpoints_rnn.FOLDER
    shutil.copytree(FOLDER, folder)
    described = json.loads((folder / "expected_rnn.json").read_text())
    described["files"][FILES[0]] |= {"nhid": 13, "genotype": "DARTS_V1"}
    (folder / "expected_rnn.json").write_text(json.dumps(described))
    (folder / FILES[1]).unlink()
    assert check(tmp_path, "checkpoints_rnn") == 1
    told = capsys.readouterr().out
    assert "nhid" in told and "genotype" in told and "cannot be read" in told


@pytest.mark.parametrize("name", FILES)
def test_sizes_and_cell_follow_from_the_file(name):
    params, value = interop_recurrent.read(str(FOLDER / name))
    assert value == genotype.load("DARTS_V2", "rnn")
    assert params["embedding"].shape == (50, 12) and params["cell"]["nodes"].shape == (8, 12, 24)
    config = weightfile.config_of(str(FOLDER / name))
    assert (config.space.kind, config.network.channels) == ("rnn", 12)


def text_of(folder, words):
    """Writes three texts of so many words, the end mark among them."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    names = [f"w{at}" for at in range(words - 1)]
    for split, count in (("train", 200), ("valid", 150), ("test", 90)):
        order = [*names, *draw.choice(names, count)]
        (folder / f"{split}.txt").write_text(" ".join(order))
    return folder


@pytest.mark.medium
def test_evaluate_tells_the_perplexities_of_a_whole_module(tmp_path, capsys):
    fits, other = text_of(tmp_path / "fits", 50), text_of(tmp_path / "other", 51)
    words = ("data.kind=text", "data.global_batch=8", "evaluation.batch=4", "data.window=7")
    target = str(FOLDER / FILES[1])
    assert cli.main(["evaluate", target, f"data.path={fits}", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["metrics"]["words"] == 49 + 90
    (one,) = found["seeds"]
    assert one["test_perplexity"] == pytest.approx(math.exp(one["test_loss"]))
    assert cli.main(["evaluate", target, f"data.path={other}", *words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "50 words, 12 channels, 8 nodes" in told


@pytest.mark.medium
def test_a_whole_module_becomes_a_run_and_a_file_again(tmp_path):
    data, source = text_of(tmp_path / "data", 50), FOLDER / FILES[0]
    words = ("data.kind=text", f"data.path={data}", "data.global_batch=8", "data.window=7")
    import_torch = importlib.import_module("import_torch")
    sizes = (*words, "evaluation.batch=4", "genotype=DARTS_V2")
    run, back = str(tmp_path / "run"), str(tmp_path / "back.pt")
    assert import_torch.main([str(source), run, *sizes]) == 0
    assert import_torch.main(["--export", run, back]) == 0
    wanted = weightfile.read_module(str(source))[0]
    for name, value in torchfile.read_state(back).items():
        np.testing.assert_array_equal(value, wanted[name])
    assert cli.main(["evaluate", run]) == 0


def state():
    return weightfile.read_module(str(FOLDER / FILES[1]))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.weight": np.zeros((50, 11), np.float32)}, "decoder.weight and encoder.weight"),
        ({"rnns.0._W0": np.zeros((24, 23), np.float32)}, "rnns.0._W0"),
        ({"decoder.bias": np.full(50, np.nan, np.float32)}, "numbers that are not finite"),
        ({"rnns.0._Ws.3": None}, "rnns.0._Ws"),
    ],
)
def test_other_tensors_are_refused(change, message, tmp_path):
    kept = {name: one for name, one in (state() | change).items() if one is not None}
    torchfile.write(tmp_path / "other.pt", kept)
    with pytest.raises((CheckpointError, DataError), match=message):
        interop_recurrent.read(str(tmp_path / "other.pt"))
