"""Parity with the original of recurrent cells: networks, architecture steps, texts, averaging."""

import json

import numpy as np
import pytest
from parity import rnn, rnn_genotypes, rnn_small, vectors
from parity_files import VECTORS, check, excerpt

GENOTYPES = VECTORS.parent


def test_one_per_cent_of_any_output_fails():
    for case in vectors.read_cases(VECTORS, "rnn"):
        kind = case.settings["kind"]
        for bits, wanted in case.wanted.items():

            def failed(found, wanted=wanted, bits=bits, kind=kind):
                rows = vectors.compare(
                    "", "", "", found, wanted, lambda k: rnn.tolerance(kind, bits, k)
                )
                return [row.quantity for row in rows if not row.passed]

            assert failed(wanted) == []
            for name, value in wanted.items():
                assert failed(wanted | {name: value * 1.01}) == [name]


def test_texts_and_alphas_stored_with_another_case_are_found():
    cases = {case.name: case for case in vectors.read_cases(VECTORS, "rnn")}
    first, second = cases["traj_first"].inputs, cases["traj_second"].inputs
    np.testing.assert_array_equal(first["train_data"], second["train_data"])
    np.testing.assert_array_equal(first["alphas"], cases["search_forward"].inputs["alphas"])
    assert not any(name.startswith("out") for name in second)


def test_genotypes_follow_from_alphas_as_the_originals(tmp_path):
    assert check(GENOTYPES, "rnn_genotypes") == 0
    tree = vectors.read_json(GENOTYPES, "rnn_genotypes")
    tree["genotypes"][7]["recurrent"][3][1] += 1
    (tmp_path / "rnn_genotypes.json").write_text(json.dumps(tree))
    arrays = vectors.read_arrays(GENOTYPES, "rnn_genotypes")
    np.savez(tmp_path / "rnn_genotypes.npz", alphas=arrays["alphas"][:-1])
    rows = list(rnn_genotypes.check(tmp_path))
    assert [n for n, row in enumerate(rows) if not row.passed] == [7, len(rows) - 1]


def test_lengths_of_windows_switches_corpus_and_sizes_are_the_originals():
    assert check(VECTORS, "rnn_small") == 0


def test_what_differs_or_is_unknown_among_the_small_things_fails(tmp_path):
    tree = vectors.read_json(VECTORS, "rnn_small")
    tree["sequence_lengths"]["train"]["seq_len"][-1] += 1
    tree["nonmono"][0]["switch_at"] -= 1
    tree["corpus"]["ids"]["test"][0] += 1
    tree["param_counts"] = {"search_ntoken50_nhid12": 1}
    tree["state_spec_ptb_DARTS_V2"].reverse()
    tree["stranger"] = 1
    (tmp_path / "rnn_small.json").write_text(json.dumps(tree))
    failed = {(row.case, row.quantity) for row in rnn_small.check(tmp_path) if not row.passed}
    assert failed == {
        ("windows train", "seq_len"),
        ("nonmono [0]", "switch_at"),
        ("corpus", "test"),
        ("size search_ntoken50_nhid12", "parameters"),
        ("state DARTS_V2", "names and shapes"),
        ("stranger", ""),
    }


def test_averaged_sgd_is_the_originals(tmp_path):
    excerpt(tmp_path, "rnn", ("asgd",))
    assert check(tmp_path, "rnn") == 0


@pytest.mark.medium
@pytest.mark.parametrize("name", ("model_ENAS", "model_DARTS_V2_masks", "evaluate"))
def test_language_models_of_genotypes_are_the_originals(tmp_path, name):
    excerpt(tmp_path, "rnn", (name,))
    assert check(tmp_path, "rnn") == 0


def check_one(name):
    (case,) = (case for case in vectors.read_cases(VECTORS, "rnn") if case.name == name)
    rows = list(rnn.check_one(case))
    assert rows
    return [row for row in rows if not row.passed]


@pytest.mark.medium
def test_a_pass_of_the_search_network_is_the_originals():
    assert check_one("search_forward") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ("architect_clip_inactive", "traj_second"))
def test_architecture_steps_and_trajectories_are_the_originals(name):
    assert check_one(name) == []


@pytest.mark.medium
def test_masks_of_other_rates_fail(tmp_path, capsys):
    case = "model_DARTS_V2_masks"
    rates = vectors.read_json(VECTORS, "rnn")["cases"][case]["dropouts"]
    excerpt(tmp_path, "rnn", (case,), settings={"dropouts": rates | {"dropouth": 0.3}})
    assert check(tmp_path, "rnn") == 1
    assert "0 passed, 2 failed" in capsys.readouterr().out
