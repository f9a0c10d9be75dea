"""Searches and trainings of recurrent cells: over devices and seeds, in parts, scored, averaged."""

import jax
import numpy as np
import pytest
import small_search
import small_text as small
from small_search import near, of_seed, same

from darts_dist import losses
from darts_dist.errors import ConfigError

ONE, PAIR = ("mesh.seed=1", "mesh.data=1"), ("seeds.count=2", "mesh.seed=1", "mesh.data=1")
OFTEN = ("schedule.steps_per_epoch=3", "weights.patience=1", "evaluation.rows=7")


@pytest.fixture(autouse=True, scope="module")
def double():
    with jax.enable_x64(True):
        yield


def copied(task, states):
    return small_search.copied(task.join(states))


def scored(task, states):
    return {name: np.array(value) for name, value in task.evaluate(states).items()}


@pytest.mark.medium
@pytest.mark.parametrize("preset", ["darts_first", "darts_second", "darts_original"])
def test_eight_devices_search_as_one(preset):
    ends = []
    for mesh in (("mesh.seed=1", "mesh.data=1"), ("mesh.seed=2", "mesh.data=4")):
        rest = ("seeds.count=2", f"method.preset={preset}", "batch_norm.sync=batch")
        task = small.search(*mesh, *rest)
        states, seen = small.run(task, 4)
        ends.append((copied(task, states), seen, scored(task, states)))
    (one, *told_by_one), (eight, *told_by_eight) = ends
    near(told_by_eight, told_by_one, 1e-10)
    for name in ("params", "stats", "alphas", "totals", "hidden"):
        near(getattr(eight, name), getattr(one, name), 1e-10)


@pytest.fixture(scope="module")
def pair():
    """Two trainings on one device, one after the other: (task, states, metrics)."""
    task = small.training(*PAIR, *OFTEN)
    return task, *small.run(task, 12)


@pytest.mark.medium
def test_eight_devices_train_as_one(pair):
    task, states, seen = pair
    one, told_by_one = copied(task, states), (seen, scored(task, states))
    task = small.training("seeds.count=2", "mesh.seed=2", "mesh.data=4", *OFTEN)
    states, seen = small.run(task, 12)
    eight = copied(task, states)
    near((seen, scored(task, states)), told_by_one, 1e-10)
    for name in ("params", "averaging", "course", "totals", "hidden"):
        near(getattr(eight, name), getattr(one, name), 1e-10)
    assert one.averaging.count.max() > 1 and eight.averaging.count.tolist() == list(
        one.averaging.count
    )


@pytest.mark.medium
def test_a_seed_is_the_same_to_the_bit_alone_and_beside_another():
    one_size = (*OFTEN, "data.sizes=[]")
    both, alone = (small.training(*more, *one_size) for more in (PAIR, ("seeds.first=1", *ONE)))
    (states, seen), (own, own_seen) = (small.run(task, 12) for task in (both, alone))
    same(of_seed(copied(both, states), 1), of_seed(copied(alone, own), 0))
    same([of_seed(one, 1) for one in seen], [of_seed(one, 0) for one in own_seen])


@pytest.mark.medium
def test_a_batch_in_parts_trains_as_a_whole_one():
    whole, parts = (small.training(*ONE, *more) for more in ((), ("data.accumulate=4",)))
    a, b = (copied(task, small.run(task, 4)[0]) for task in (whole, parts))
    near(b.params, a.params, 1e-10)
    near(b.hidden, a.hidden, 1e-10)


@pytest.mark.medium
def test_every_word_is_scored_once_by_any_number_of_devices(pair):
    task, states, _ = pair
    rows = task.test
    found = task.programs.join(task.score(states, rows))
    apply = jax.jit(task.programs.one.model.apply, static_argnames="train")
    for at in range(2):
        params = of_seed(copied(task, states).averaging.average, at)
        hidden = np.zeros((rows.shape[1], 6))
        out, _ = apply(params, {}, rows[:-1], hidden, train=False)
        wanted = losses.sequence_cross_entropy(out.logits, rows[1:]).sum() * (len(rows) - 1)
        assert float(found["loss"][at]) == pytest.approx(float(wanted), rel=1e-12)
        assert int(found["count"][at]) == rows[1:].size
    wide = small.training("seeds.count=2", "mesh.seed=1", "mesh.data=8", *OFTEN)
    near(
        small_search.copied(wide.programs.join(wide.score(wide.init(), wide.valid))),
        small_search.copied(task.programs.join(task.score(task.init(), task.valid))),
        1e-10,
    )


@pytest.mark.medium
def test_the_originals_mean_counts_a_row_more(pair):
    task, states, _ = pair
    other = small.training(*PAIR, *OFTEN, "evaluation.mean=original")
    exact, original = scored(task, states), scored(other, states)
    rows, columns = task.valid.shape
    assert original["count"].tolist() == [rows * columns] * 2
    assert exact["count"].tolist() == [(rows - 1) * columns] * 2
    near(original["loss"], exact["loss"], 1e-12)


@pytest.mark.medium
def test_a_search_is_scored_by_batch_statistics_when_asked():
    more = ("evaluation.statistics=batch", "evaluation.batch=4")
    task = small.search(*ONE, *more)
    states, rows = task.init(), task.valid
    found, state = scored(task, states), of_seed(copied(task, states), 0)
    model, hidden, wanted = task.programs.one.model, np.zeros((4, 6)), 0.0
    apply = jax.jit(model.apply, static_argnames="train")
    for start in range(0, len(rows) - 1, 5):
        window, weights = rows[start : start + 6], model.weights(state.alphas)
        given = (state.params, state.stats, window[:-1], hidden, weights)
        out, _ = apply(*given, train=True)
        own = losses.sequence_cross_entropy(out.logits, window[1:]).sum()
        hidden, wanted = out.hidden, wanted + float(own) * (len(window) - 1)
    assert float(found["loss"][0]) == pytest.approx(wanted, rel=1e-12)
    ends = []
    for mesh in (ONE, ("mesh.seed=1", "mesh.data=2")):
        task = small.search(*mesh, *more, "batch_norm.sync=batch")
        ends.append(scored(task, task.init()))
    near(ends[1], ends[0], 1e-10)
    near(ends[0], found, 1e-10)
    with pytest.raises(ConfigError, match=r"evaluation.batch=4 does not give each of the 8 dev"):
        small.search("mesh.seed=1", "mesh.data=8", *more)


@pytest.mark.medium
def test_the_hidden_state_is_carried_and_begins_anew_with_the_text():
    task = small.training(*ONE, train=200)
    course = [task.windows[step]["train"]["starts"].item() for step in range(12)]
    assert course[0] and sum(course) > 1
    states, batches = task.init(), task.batches()
    for starts in course:
        state, batch = copied(task, states), next(batches)
        ready = task.programs.prepare(
            states[0], task.programs.place_batches({"train": by_row(batch["train"])})[0]
        )
        fed = np.array(ready["train"][0][1])
        np.testing.assert_array_equal(fed, 0 * fed if starts else state.hidden["train"])
        states, _ = task.advance(states, batch, 0)


def by_row(one):
    shape = one["tokens"].shape[:2]
    wide = {
        name: np.broadcast_to(one[name][:, None], shape).copy() for name in ("length", "starts")
    }
    return {"tokens": one["tokens"], "targets": one["targets"], **wide}


@pytest.mark.medium
def test_the_best_weights_are_kept_and_averaging_begins_by_the_rule(pair):
    task, _, _ = pair
    states, batches, told = task.init(), task.batches(), []
    for done in range(1, 19):
        states, _ = task.advance(states, next(batches), 0)
        if done % 3 == 0:
            states, sums = task.end_epoch(states)
            state = copied(task, states)
            told.append((np.array(sums["loss"] / sums["count"]), state))
    batches.close()
    for at in range(2):
        seen = [float(loss[at]) for loss, _ in told]
        due = False
        for number, (_, state) in enumerate(told, 1):
            before, newest = seen[: number - 1], seen[number - 1]
            due = due or (len(before) > 1 and newest > min(before[:-1]))
            assert bool(state.course["averages"][at]) == due
            assert state.course["best_loss"][at] == min(seen[:number])
        best = scored(task, task.best(states))
        assert best["loss"][at] / best["count"][at] == pytest.approx(min(seen), rel=1e-12)


@pytest.mark.medium
@pytest.mark.parametrize("kind", [small.search, small.training])
def test_a_new_start_from_a_state_goes_on_as_if_nothing_had_been(kind):
    task = kind("schedule.steps_per_epoch=4")
    whole, _ = small.run(task, 9)
    early, _ = small.run(task, 5)
    held = task.join(early)
    late, _ = small.run(task, 4, task.split(held), 5)
    same(copied(task, late), copied(task, whole))


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (
            small.search,
            ("data.global_batch=300", *ONE),
            "train.txt of 400 words does not fill two rows of 300 columns; use a longer text, or "
            "data.global_batch of at most 200",
        ),
        (small.search, ("data.window=60",), "windows of 60 words need a text of at least 61 rows"),
        (small.training, ("data.window=60",), "windows of 60 words need a text of at least 61"),
        (
            small.training,
            ("evaluation.test_batch=31",),
            "test.txt of 60 words does not fill two rows of 31 columns; use a longer text, or "
            "evaluation.test_batch of at most 30",
        ),
        (small.search, ("evaluation.batch=86",), "or evaluation.batch of at most 85"),
        (small.training, ("data.accumulate=3", *ONE), "data.accumulate=3 does not divide the 8"),
        (small.search, ("batch_norm.sync=group:2",), "wanted batch | state for texts"),
        (small.search, ("space.operations=[none]",), "space.operations"),
    ],
)
def test_what_does_not_fit_is_refused(make, changes, message):
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        make(*changes)


def test_windows_are_padded_to_few_sizes():
    task = small.training(*ONE, "data.sizes=[40, 7]")
    sizes = {task.windows[step]["train"]["tokens"].shape[2] for step in range(40)}
    assert sizes == {7, 9} == set(task.sizes()[0])
