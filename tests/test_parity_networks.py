"""Parity with the original of fixed networks, of the pieces that train them, and of sizes."""

import json

import numpy as np
import pytest
from parity import cnn_eval, cnn_param_counts, vectors
from parity_files import VECTORS, check, excerpt


def test_two_per_cent_of_any_output_fail():
    for case in vectors.read_cases(VECTORS, "cnn_eval"):
        for bits, wanted in case.wanted.items():

            def failed(found, wanted=wanted, bits=bits):
                limit = cnn_eval.tolerance
                rows = vectors.compare("", "", "", found, wanted, lambda k: limit(bits, k))
                return [row.quantity for row in rows if not row.passed]

            assert failed(wanted) == []
            for name, value in wanted.items():
                assert failed(wanted | {name: value * 1.02}) == [name]


def test_weights_stored_with_another_case_are_found():
    cases = {case.name: case for case in vectors.read_cases(VECTORS, "cnn_eval")}
    dropped, plain = cases["cifar_DARTS_V2_droppath"], cases["cifar_DARTS_V2"]
    state = vectors.under(plain.inputs, "state/")
    assert vectors.under(dropped.inputs, "state/").keys() == state.keys() and state
    assert dropped.inputs["x_int8"].shape != plain.inputs["x_int8"].shape


def test_masks_of_other_paths_fail(tmp_path, capsys):
    case = "cifar_DARTS_V2_droppath"
    order = vectors.read_json(VECTORS, "cnn_eval")["cases"][case]["mask_order_cell_op"]
    settings = {"mask_order_cell_op": [[0, 5], *order[1:]]}
    excerpt(tmp_path, "cnn_eval", ("cifar_DARTS_V2", case), settings=settings)
    (dropped,) = (c for c in vectors.read_cases(tmp_path, "cnn_eval") if c.name == case)
    with pytest.raises(vectors.VectorError, match="the network drops"):
        cnn_eval.outputs(dropped, "batch_minor", 32)


def test_parameters_are_as_many_as_the_originals():
    wanted = vectors.read_json(VECTORS, "cnn_param_counts")["counts"]
    for name in (
        "cifar_C36_L20_classes10_DARTS_V2_auxiliary",
        "imagenet_C48_L14_classes1000_DARTS_V2_auxiliary",
        "cifar_C36_L20_classes10_NASNet",
        "imagenet_C48_L14_classes1000_AmoebaNet_auxiliary",
        "search_C4_L3",
    ):
        assert cnn_param_counts.counts(name) == wanted[name]


def test_another_count_or_an_unknown_network_fails(tmp_path):
    tree = vectors.read_json(VECTORS, "cnn_param_counts")
    name = "search_C4_L3"
    counts = {name: tree["counts"][name] | {"tensors": 1}, "transformer_L3": {"total": 1}}
    (tmp_path / "cnn_param_counts.json").write_text(json.dumps({"counts": counts}))
    rows = list(cnn_param_counts.check(tmp_path))
    failed = [row.note for row in rows if not row.passed]
    assert failed[0] == "found 548, wanted 1" and "no network is named like this" in failed[1]
    assert len(rows) == 4


def test_pieces_of_training_are_the_originals():
    assert check(VECTORS, "train_pieces") == 0


def test_changed_missing_and_unknown_pieces_fail(tmp_path, capsys):
    settings = vectors.read_json(VECTORS, "train_pieces")
    arrays = vectors.read_arrays(VECTORS, "train_pieces")
    settings["constants"]["CIFAR_STD"][0] += 1e-8
    (tmp_path / "train_pieces.json").write_text(json.dumps(settings))
    changed = {k: v * (1 + 1e-9) if k.startswith("out/") else v for k, v in arrays.items()}
    changed = {k: v for k, v in changed.items() if not k.startswith("out/dp/")}
    np.savez(tmp_path / "train_pieces.npz", **changed)
    assert check(tmp_path, "train_pieces") == 1
    out = capsys.readouterr().out
    assert "1 passed, 9 failed" in out and "missing" in out  # CIFAR_MEAN
    np.savez(tmp_path / "train_pieces.npz", **arrays, **{"out/asgd/p": np.ones(1)})
    assert check(tmp_path, "train_pieces") == 1
    assert "asgd" in capsys.readouterr().out


@pytest.mark.medium
@pytest.mark.parametrize("name", ("cifar_DARTS_V2_droppath", "imagenet_DARTS_V2_224"))
def test_a_network_with_either_stem_is_the_originals(tmp_path, name):
    stored = (name,) if "droppath" not in name else ("cifar_DARTS_V2", name)
    excerpt(tmp_path, "cnn_eval", stored)
    (case,) = (case for case in vectors.read_cases(tmp_path, "cnn_eval") if case.name == name)
    found = cnn_eval.outputs(case, "batch_minor", 32)
    limit = cnn_eval.tolerance
    rows = vectors.compare("", name, "", found, case.wanted[32], lambda k: limit(32, k))
    assert [row for row in rows if not row.passed] == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_networks_are_the_originals_in_all_precisions_and_layouts():
    assert check(VECTORS, "cnn_eval") == 0


@pytest.mark.slow
def test_every_network_has_as_many_parameters_as_the_originals():
    assert check(VECTORS, "cnn_param_counts") == 0
