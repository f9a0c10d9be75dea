"""Windows of a text: a pure function of (seed, step), each word predicted once a pass."""

import math

import numpy as np
import pytest

from darts_dist.data import windows
from darts_dist.data.windows import Batches, Window, Windows
from darts_dist.errors import ConfigError


def table(rows, columns):
    """Every cell tells its place."""
    return np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)


@pytest.mark.parametrize("jitter", [False, True])
def test_windows_follow_each_other_through_the_text_without_gap(jitter):
    own = Windows(3, 400, length=35, jitter=jitter)
    passes = [own.one_pass(number) for number in range(3)]
    for one in passes:
        ends = [window.start + window.length for window in one]
        assert [window.start for window in one] == [0, *ends[:-1]]
        assert 398 <= ends[-1] <= 399  # a last row alone is left out
        assert all(window.length >= 2 for window in one)
    assert [own[step] for step in range(sum(map(len, passes)))] == [
        window for one in passes for window in one
    ]
    assert len(set(passes)) > 1


def test_a_window_depends_on_seed_and_step_alone():
    rule = {"rows": 300, "length": 20, "jitter": True}
    course = [Windows(1, **rule)[step] for step in range(40)]
    late = Windows(1, **rule)
    assert [late[step] for step in reversed(range(40))] == course[::-1]
    assert [Windows(2, **rule)[step] for step in range(40)] != course
    assert late.locate(10**5)[1] < 60 and late[10**5] == Windows(1, **rule)[10**5]


def test_lengths_are_whole_or_half_in_a_search_and_vary_in_a_training():
    rule = {"rows": 10**6, "length": 35}
    plain = [window.wanted for window in Windows(0, **rule, jitter=False).one_pass(0)]
    assert set(plain) == {35, 17} and 0.03 < plain.count(17) / len(plain) < 0.07
    varied = np.array([window.wanted for window in Windows(0, **rule, jitter=True).one_pass(0)])
    assert varied.min() >= 5 and varied.max() <= 55
    assert np.median(varied) == 34 and 33.4 < varied.mean() < 33.9 and 5.5 < varied.std() < 7
    short = [w.wanted for w in Windows(0, 500, length=4, jitter=True, excess=2).one_pass(0)]
    assert set(short) <= {5, 6} and min(short) == 5


def test_a_course_of_windows_is_the_same_for_all_time():
    own = Windows(7, 1000, length=35, jitter=True)
    assert [own[step].wanted for step in range(8)] == RECORDED


RECORDED = [31, 26, 29, 40, 37, 37, 37, 40]


def test_the_window_that_trains_alphas_starts_at_the_same_row_counted_around():
    for start, wanted in ((0, (0, 6)), (6, (6, 6)), (12, (12, 1)), (13, (0, 6)), (20, (7, 6))):
        window = windows.opposite(Window(start, 3, 3), 14, 6)
        assert (window.start, window.length) == wanted


def test_targets_are_the_words_one_row_further():
    cut = windows.cut(table(6, 3), Window(1, 2, 4), 4, slice(1, 3))
    assert cut["tokens"].tolist() == [[4, 7, 0, 0], [5, 8, 0, 0]]
    assert cut["targets"].tolist() == [[7, 10, 0, 0], [8, 11, 0, 0]]
    assert cut["length"] == 2 and cut["tokens"].dtype == np.int32


def batches(**options):
    texts = {"train": table(90, 4), "valid": 1000 + table(30, 4)}
    rest = {"seeds": (5, 6), "own": (5, 6), "columns": slice(0, 4), "length": 10, "jitter": True}
    return Batches(texts, **rest | options)


def test_processes_together_see_what_one_sees():
    whole = batches(sizes=(8, 16))
    halves = [batches(columns=slice(at, at + 2), sizes=(8, 16)) for at in (0, 2)]
    seeds = [batches(own=(seed,), sizes=(8, 16)) for seed in (5, 6)]
    for step in range(30):
        for stream, batch in whole[step].items():
            for name in ("tokens", "targets"):
                parts = [part[step][stream][name] for part in halves]
                np.testing.assert_array_equal(np.concatenate(parts, 1), batch[name])
            for name, values in batch.items():
                parts = [part[step][stream][name] for part in seeds]
                np.testing.assert_array_equal(np.concatenate(parts), values)


def test_both_streams_keep_step_and_the_rate_follows_the_drawn_length():
    own, course = batches(), Windows(6, 90, length=10, jitter=True)
    for step in range(30):
        batch, window = own[step], course[step]
        assert batch["train"]["length"][1] == window.length
        assert batch["train"]["tokens"].shape == (2, 4, 30)
        assert batch["train"]["tokens"][1, 0, 0] == 4 * window.start
        assert batch["valid"]["tokens"][1, 0, 0] == 1000 + 4 * (window.start % 29)
        assert batch["valid"]["tokens"].shape == (2, 4, 10)
        assert batch["train"]["rate"][1] == window.wanted / 10
        assert batch["train"]["starts"][1] == (window.start == 0) == batch["valid"]["starts"][1]


def test_windows_are_padded_to_the_smallest_size_that_fits_all_seeds():
    own = batches(own=(5,), sizes=(8, 12, 16))
    courses = [Windows(seed, 90, length=10, jitter=True) for seed in (5, 6)]
    sizes = set()
    for step in range(60):
        longest = max(course[step].length for course in courses)
        size = own[step]["train"]["tokens"].shape[2]
        assert size == min(s for s in (8, 12, 16, 30) if s >= longest)
        sizes.add(size)
    assert len(sizes) > 2


@pytest.mark.parametrize("rows", [3, 10])
def test_a_window_longer_than_the_text_is_refused(rows):
    with pytest.raises(
        ConfigError, match=f"10 words need a text of at least 11 rows, found {rows}"
    ):
        Windows(0, rows, length=10, jitter=False)
    with pytest.raises(ConfigError, match="at least 11 rows"):
        Batches(
            {"train": table(90, 4), "valid": table(rows, 4)},
            seeds=(0,),
            own=(0,),
            columns=slice(None),
            length=10,
            jitter=False,
        )
    assert len(Windows(0, 11, length=10, jitter=False).one_pass(0)) in (1, 2, 3)


def test_evaluation_sees_every_word_once_and_carries_on():
    text = table(21, 3)
    seen = list(windows.evaluation_windows(text, 6, slice(1, 3)))
    assert [int(cut["length"]) for cut in seen] == [6, 6, 6, 2]
    assert {cut["tokens"].shape for cut in seen} == {(2, 6)}
    targets = np.concatenate([cut["targets"][:, : cut["length"]] for cut in seen], 1)
    np.testing.assert_array_equal(targets.T, text[1:, 1:])


def test_the_originals_mean_counts_a_row_that_it_does_not_predict():
    assert windows.mean_loss(60.0, 11, 3) == pytest.approx(2.0)
    assert windows.mean_loss(60.0, 11, 3, original=True) == pytest.approx(20 / 11)
    assert windows.perplexity(2.0) == math.exp(2) and windows.perplexity(1e4) == math.inf
