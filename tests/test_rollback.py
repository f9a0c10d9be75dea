"""A training on texts that diverges: back to its best weights, a few times, and then it ends."""

import json
import math

import jax
import numpy as np
import pytest
import small_text as small
from small_search import of_seed, same
from test_text_verbs import SIZES, TRAIN, darts, interrupted, read, texts
from test_texttask import copied

WILD = ("weights.learning_rate=1e30", "weights.rollback_rate=1e-30")  # after one rollback tame


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return texts(tmp_path_factory.mktemp("texts") / "data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    words = (*SIZES, *TRAIN, *WILD, "weights.rollbacks=3", f"data.path={data}")
    assert darts("train", *words, "--workdir", folder) == 0
    return folder


def lines_of(folder):
    return [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]


@pytest.mark.medium
def test_a_training_that_diverges_goes_back_and_then_learns(run):
    lines, result = lines_of(run), read(run)
    assert {line["rollbacks"] for line in lines} == {1}
    assert all(line["alive"] and math.isfinite(line["valid_loss"]) for line in lines)
    assert all(one["valid_loss"] < math.log(11) for one in result["seeds"])
    assert "went back to its best weights 1 times so far" in (run / "log.txt").read_text()


@pytest.mark.medium
@pytest.mark.parametrize("step", [2, 16])  # in the step of the rollback, and long after it
def test_a_training_that_went_back_resumes_as_if_nothing_had_been(step, run, data, tmp_path):
    folder = interrupted(run, tmp_path / "again", step)
    words = (*SIZES, *TRAIN, *WILD, "weights.rollbacks=3", f"data.path={data}")
    assert darts("train", *words, "--workdir", folder) == 0
    assert read(folder)["resumed_from"] == [step]
    assert read(folder)["state_digest"] == read(run)["state_digest"]
    assert lines_of(folder) == lines_of(run)


@pytest.mark.medium
@pytest.mark.parametrize("often", [0, 2])
def test_one_that_diverges_too_often_ends_with_code_3(often, data, tmp_path, capsys):
    rest = ("weights.learning_rate=1e30", "weights.rollback_rate=1", f"weights.rollbacks={often}")
    words = (*SIZES, *TRAIN, *rest, f"data.path={data}", "--workdir", tmp_path / "run")
    assert darts("train", *words, "log.every_steps=1", "schedule.steps_per_epoch=9") == 3
    told = capsys.readouterr().err.splitlines()[-1]
    # Each time one step is taken, and the next one finds what came of it.
    assert f"every seed (0, 1) became non-finite by step {2 * (often + 1)}; last good" in told


@pytest.mark.medium
def test_an_evaluation_that_is_not_finite_sends_back_its_own_seed_only():
    with jax.enable_x64(True):
        task = small.training(
            *("seeds.count=2", "mesh.seed=1", "mesh.data=2", "weights.rollbacks=1"),
            *("weights.patience=1", "schedule.steps_per_epoch=3"),
        )
        states, _ = small.run(task, 4)
        before = copied(task, states)
        for loss in ([np.nan, 3.0], [np.inf, 3.0]):
            sums = [{"loss": jax.numpy.array([one]), "count": jax.numpy.ones(1)} for one in loss]
            states = task.programs.settle(states, sums)
            after = copied(task, states)
            if after.alive.all():
                once = after
    assert once.course["rollbacks"].tolist() == [1, 0] and after.alive.tolist() == [False, True]
    back, kept = of_seed(once, 0), of_seed(once, 1)
    same(back.params, of_seed(before, 0).course["best"])
    assert not back.hidden["train"].any() and back.averaging.count == 0
    same(kept.params, of_seed(before, 1).params)
    same(kept.hidden, of_seed(before, 1).hidden)
    assert kept.hidden["train"].any() and kept.course["recent"].tolist() == [3.0]
