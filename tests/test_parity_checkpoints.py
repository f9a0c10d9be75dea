"""Parity with the original of networks in files that PyTorch wrote."""

import functools
import gzip
import json
import shutil

import numpy as np
import pytest
from parity import checkpoints_cnn, vectors
from parity_files import VECTORS, check

from darts_dist import torchfile

FILE = "cifar_zip_noaux.pt"


@pytest.fixture
def folder(tmp_path):
    """A copy of the vectors that may be changed."""
    shutil.copytree(VECTORS / checkpoints_cnn.FOLDER, tmp_path / checkpoints_cnn.FOLDER)
    return tmp_path / checkpoints_cnn.FOLDER


def case_of(folder):
    (case,) = (case for case in checkpoints_cnn.read_cases(folder) if case.name == FILE)
    return case


def test_both_containers_hold_the_same_weights():
    own = VECTORS / checkpoints_cnn.FOLDER
    new, old = (torchfile.read_state(own / case.name) for case in checkpoints_cnn.read_cases(own))
    new, old = sorted((new, old), key=len, reverse=True)
    assert {name for name in new if name not in old} == {
        name for name in new if name.endswith(".num_batches_tracked")
    }
    for name, value in old.items():
        np.testing.assert_array_equal(new[name], value)


@pytest.mark.medium
def test_a_file_of_each_container_is_the_originals():
    assert check(VECTORS, "checkpoints_cnn") == 0


@pytest.mark.medium
@pytest.mark.parametrize(
    "name", ["cells.4.preprocess0.op.1.weight", "cells.3.preprocess0.bn.running_var"]
)
def test_one_changed_tensor_fails(folder, name):
    state = torchfile.read_state(folder / FILE)
    torchfile.write(folder / FILE, state | {name: state[name] * 1.01})
    case = case_of(folder)
    found = checkpoints_cnn.outputs(folder, case, "batch_minor", 32)
    (row,) = vectors.compare("", FILE, "", found, case.wanted[32], lambda _: 1e-5)
    assert not row.passed and row.difference < 1


def test_missing_files_other_sizes_and_missing_logits_fail(folder, capsys):
    described = json.loads((folder / "expected_cnn.json").read_text())["files"]
    other = {"lost.pt": described[FILE], FILE: described[FILE] | {"auxiliary": True, "classes": 9}}
    arrays = vectors.read_arrays(folder, "expected_cnn")
    kept = {k: v for k, v in arrays.items() if k.endswith("x_int8")}
    np.savez(folder / "expected_cnn.npz", **kept)
    (folder / "expected_cnn.json").write_text(json.dumps({"files": other}))
    assert check(folder.parent, "checkpoints_cnn") == 1
    told = capsys.readouterr().out
    assert "0 passed, 6 failed" in told
    for text in ("No such file", "found 10, wanted 9", "found False, wanted True", "missing"):
        assert text in told


def test_a_tensor_too_many_fails(folder):
    state = torchfile.read_state(folder / FILE)
    torchfile.write(folder / FILE, state | {"cells.0.extra": np.ones(1)})
    rows = vectors.guarded(
        "", FILE, "", functools.partial(checkpoints_cnn._names, folder, case_of(folder))
    )
    assert [row.passed for row in rows] == [False] and "cells.0.extra" in rows[0].note


def test_arrays_of_no_file_fail(folder, capsys):
    arrays = vectors.read_arrays(folder, "expected_cnn")
    np.savez(folder / "expected_cnn.npz", **arrays, **{"lost.pt/logits_eval": np.ones(1)})
    assert check(folder.parent, "checkpoints_cnn") == 1
    assert "lost.pt" in capsys.readouterr().out


def test_a_compressed_file_is_unpacked_and_a_broken_one_fails(folder):
    packed = folder / f"{FILE}.gz"
    packed.write_bytes(gzip.compress((folder / FILE).read_bytes()))
    assert checkpoints_cnn.read_state(packed).keys() == torchfile.read_state(folder / FILE).keys()
    packed.write_bytes(packed.read_bytes()[:5000])
    with pytest.raises(vectors.VectorError):
        checkpoints_cnn.read_state(packed)
