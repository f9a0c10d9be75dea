"""Plans of searches and trainings of recurrent cells."""

import pytest
from small_plan import plan

from darts_dist import planconfig, plandata
from darts_dist.data import text
from darts_dist.errors import ConfigError, InputError

SMALL = ("topology=cpu:2", "network.channels=8", "data.global_batch=8", "data.window=12")
PENN = ("topology=cpu:1", "data.kind=text", "plan.text=ptb")


@pytest.mark.medium
def test_a_search_of_recurrent_cells_is_planned(tmp_path):
    words = ("space.kind=rnn", "network.nodes=2", "method.preset=darts_first")
    found = plan(tmp_path, *SMALL, *words)
    uses = {row["program"]: row["uses"] for row in found["programs"]}
    assert uses == {
        **{"prepare": 1, "gradient_params": 1, "gradient_alphas": 1, "alpha_step": 1},
        **{"weight_step": 1, "carry": 1, "evaluate": 0},
    }
    assert found["step"]["collectives"] == 2 and found["run"]["unit"] == "words"
    assert all(row["unknown_loops"] == 0 for row in found["programs"])
    corpus = text.load_sample()
    rows = len(corpus.valid) // 10
    assert found["run"]["evaluated_batches"] == 50 * -(-(rows - 1) // 12)
    cell, products = 16 * 16, 3 * 8 * 16
    assert found["multiply_adds"] == len(corpus.words) * 8 + cell + products


@pytest.mark.medium
def test_a_training_counts_windows_by_their_lengths(tmp_path):
    words = ("genotype=DARTS_V2", "space.kind=rnn", "data.excess=4", "data.sizes=[13]")
    found = plan(tmp_path, *SMALL, *words, "--workdir", "text")
    rows = {row["program"]: row for row in found["programs"]}
    short, long = rows["gradient_params, 13 words"], rows["gradient_params, 16 words"]
    assert short["uses"] + long["uses"] == pytest.approx(1) and min(short["uses"], long["uses"]) > 0
    assert short["flops_from"] == long["flops_from"] == "multiply-adds"
    assert long["flops"] / short["flops"] == pytest.approx(16 / 13)
    assert rows["weight_step"]["uses"] == rows["carry"]["uses"] == 1
    assert rows["settle"]["uses"] == rows["evaluate"]["uses"] == 0
    assert found["memory"]["temp"] == max(row["temp_bytes"] for row in rows.values())
    assert (tmp_path / "text" / "plan.svg").read_text().startswith("<svg")


def test_known_texts_have_as_many_steps_as_their_words_make():
    search = planconfig.load(None, (*PENN, "space.kind=rnn"))
    found = plandata.count(search)
    assert found.classes == 10_000 and found.lengths == {35: 1.0}
    assert found.epoch_steps == round((929_589 // 256 - 1) / (0.975 * 35))
    assert found.evaluation_batches == -(-(73_760 // 10 - 1) // 35)
    train = planconfig.load(None, (*PENN, "space.kind=rnn", "genotype=DARTS_V2", "seeds.count=8"))
    assert isinstance(train, planconfig.PlanTextTrain)
    shares = plandata.count(train).lengths
    assert list(shares) == [40, 55] and sum(shares.values()) == pytest.approx(1)
    alone = planconfig.load(None, (*PENN, "space.kind=rnn", "genotype=DARTS_V2"))
    assert plandata.count(alone).lengths[40] > shares[40]


def test_own_texts_need_their_sizes():
    words = ("topology=cpu:1", "space.kind=rnn", "data.kind=text")
    with pytest.raises(ConfigError, match=r"plan.text=ptb .* plan.examples=N plan.scored=N"):
        planconfig.load(None, words)
    own = ("plan.examples=9000", "plan.scored=500", "plan.words=77", "data.global_batch=10")
    found = plandata.count(planconfig.load(None, (*words, *own)))
    assert found.classes == 77 and found.evaluation_batches == 2
    short = planconfig.load(None, (*words, *own, "plan.scored=9000", "data.global_batch=300"))
    with pytest.raises(InputError, match="windows of 35 words need a text of at least 36 rows"):
        plandata.count(short)
