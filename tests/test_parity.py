"""Parity with the original: the check itself, and this package by the original's numbers."""

import json
import pathlib
import subprocess
import sys

import check_parity
import numpy as np
import pytest
from parity import cnn_genotypes, cnn_ops, cnn_search, vectors
from parity_files import VECTORS, check, excerpt

from darts_dist.errors import InputError

GENOTYPES = VECTORS.parent
TOOL = pathlib.Path(check_parity.__file__)
SMALL = ("none.s2.affine.even", "skip_connect.s1.affine.odd", "relu_conv_bn.noaffine")
FEW = (
    "mixed.s2",
    "pool_bn.max_pool_3x3.s1",
    "skip_connect.s2.noaffine.even",
    "sep_conv_7x7.s2.noaffine.odd",
    "dil_conv_5x5.s1.affine.even",
    "conv_7x1_1x7.s2.noaffine.odd",
    "factorized_reduce.affine",
)


@pytest.mark.parametrize(
    ("module", "tolerance"),
    ((cnn_ops, lambda bits, _: cnn_ops.TOLERANCE[bits]), (cnn_search, cnn_search.tolerance)),
    ids=("operations", "search"),
)
def test_one_per_cent_of_any_output_fails(module, tolerance):
    for case in vectors.read_cases(VECTORS, module.STEM):
        for bits, wanted in case.wanted.items():

            def failed(found, wanted=wanted, bits=bits):
                rows = vectors.compare("", "", "", found, wanted, lambda k: tolerance(bits, k))
                return [row.quantity for row in rows if not row.passed]

            assert failed(wanted) == []
            for name, value in wanted.items():
                moved = value * 1.01 if np.any(value) else value + 0.01
                assert failed(wanted | {name: moved}) == [name]


def test_what_is_missing_misshaped_or_no_number_fails():
    wanted = {"a": np.ones((2, 2)), "b": np.zeros(3), "c": np.ones(1)}
    found = {"a": np.ones(4), "b": np.full(3, np.nan), "more": np.ones(1)}
    rows = vectors.compare("", "", "", found, wanted, lambda _: 1.0)
    assert [row.passed for row in rows] == [False] * 3
    assert rows[0].note == "found the shape (4,), wanted (2, 2)"
    assert rows[2].note == "not covered"


def test_genotypes_follow_from_alphas_as_the_originals():
    assert check(GENOTYPES, "cnn_genotypes") == 0


def test_another_genotype_fails(tmp_path, capsys):
    tree = vectors.read_json(GENOTYPES, "cnn_genotypes")
    tree["genotypes"][7]["normal"][3][1] += 1
    (tmp_path / "cnn_genotypes.json").write_text(json.dumps(tree))
    np.savez(tmp_path / "cnn_genotypes.npz", **vectors.read_arrays(GENOTYPES, "cnn_genotypes"))
    assert check(tmp_path, "cnn_genotypes") == 1
    assert "25 passed, 1 failed" in capsys.readouterr().out


def test_genotypes_without_alphas_fail(tmp_path):
    tree = vectors.read_json(GENOTYPES, "cnn_genotypes")
    arrays = vectors.read_arrays(GENOTYPES, "cnn_genotypes")
    (tmp_path / "cnn_genotypes.json").write_text(json.dumps(tree))
    np.savez(tmp_path / "cnn_genotypes.npz", **{k: v[:-1] for k, v in arrays.items()})
    rows = list(cnn_genotypes.check(tmp_path))
    assert [row.passed for row in rows] == [True] * (len(rows) - 1) + [False]


def test_small_operations_pass_and_the_table_says_so(tmp_path, capsys):
    excerpt(tmp_path, "cnn_ops", SMALL)
    assert check(tmp_path, "cnn_ops") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"{len(lines)} passed, 0 failed"
    for layout in ("batch_minor", "channels_last"):
        assert any(f"{SMALL[-1]} float64 {layout}" in line and "pass" in line for line in lines)


def test_a_changed_output_makes_the_check_fail(tmp_path, capsys):
    for output in ("y_train", "grad/op.1.weight", "stats_after/op.2.running_var"):
        key = f"relu_conv_bn.noaffine/out64/{output}"
        excerpt(tmp_path, "cnn_ops", SMALL[-1:], lambda k, v, key=key: v * 1.01 if k == key else v)
        assert check(tmp_path, "cnn_ops") == 1
        *failures, last = capsys.readouterr().out.splitlines()
        assert last == "0 passed, 2 failed"  # two layouts
        assert all(output in line and "fail" in line for line in failures)


def test_json_has_every_quantity(tmp_path, capsys):
    excerpt(tmp_path, "cnn_ops", SMALL[:1])
    assert check_parity.main([str(tmp_path), "--only", "cnn_ops", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (case,) = vectors.read_cases(tmp_path, "cnn_ops")
    outputs = sum(len(wanted) for wanted in case.wanted.values())
    assert len(report["rows"]) == 2 * outputs and report["failed"] == 0


def test_what_nothing_covers_fails(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as without:
        without.delitem(check_parity.CHECKS, "rnn")
        assert check(tmp_path, "rnn") == 1
    assert "not covered" in capsys.readouterr().out
    assert check(tmp_path, "cnn_ops") == 1  # no files
    excerpt(tmp_path, "cnn_ops", ())
    assert check(tmp_path, "cnn_ops") == 1  # no cases
    excerpt(tmp_path, "cnn_ops", SMALL[:1], settings={"op": "no_such_operation"})
    assert check(tmp_path, "cnn_ops") == 1  # an error in the case
    excerpt(tmp_path, "cnn_ops", SMALL[:1], lambda k, v: None if "out32" in k else v)
    assert check(tmp_path, "cnn_ops") == 1  # a precision that the settings promise
    assert "missing" in capsys.readouterr().out
    more = vectors.read_arrays(tmp_path, "cnn_ops") | {"stranger/out64/y": np.ones(1)}
    np.savez(tmp_path / "cnn_ops.npz", **more)
    assert check(tmp_path, "cnn_ops") == 1
    assert "stranger" in capsys.readouterr().out


def test_without_only_every_stem_is_asked_for(tmp_path, capsys):
    assert check_parity.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"0 passed, {len(check_parity.STEMS)} failed" in out


@pytest.mark.medium
def test_operations_of_every_kind_are_the_originals(tmp_path):
    excerpt(tmp_path, "cnn_ops", FEW)
    assert check(tmp_path, "cnn_ops") == 0


@pytest.mark.medium
def test_a_pass_of_the_network_is_the_originals(tmp_path):
    excerpt(
        tmp_path,
        "cnn_search",
        ("forward",),
        lambda k, v: None if "out64" in k else v,
        settings={"float_types": ["32"]},
    )
    assert check(tmp_path, "cnn_search") == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_operation_is_the_originals():
    assert check(VECTORS, "cnn_ops") == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_search_network_its_architecture_steps_and_trajectories_are_the_originals():
    assert check(VECTORS, "cnn_search") == 0


def test_a_bad_command_line_is_told_in_one_line_before_anything_is_compared():
    done = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "required: directory" in done.stderr
    with pytest.raises(InputError, match="invalid choice: 'cnn'"):
        check_parity.main([str(VECTORS), "--only", "cnn"], start=pytest.fail)
