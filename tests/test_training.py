"""Training networks of one genotype: over devices and seeds, in parts, averaged, scored."""

import jax
import numpy as np
import pytest
import small_search
import small_training as small
from small_search import near, of_seed, same

from darts_dist import losses
from darts_dist.data.augment import normalise
from darts_dist.errors import ConfigError

PAIR = ("seeds.count=2", "mesh.seed=1", "mesh.data=1")


@pytest.fixture(autouse=True, scope="module")
def double():
    with jax.enable_x64(True):
        yield


def copied(task, states):
    return small_search.copied(task.join(states))


@pytest.fixture(scope="module")
def pair():
    """Two seeds on one device, one after the other: (task, states, metrics) after three steps."""
    task = small.training(*PAIR, "weights.average=0.75")
    return task, *small.run(task, 3)


@pytest.mark.medium
def test_eight_devices_train_as_one():
    ends = []
    for seed, data in ((1, 1), (2, 4)):
        mesh = ("seeds.count=2", f"mesh.seed={seed}", f"mesh.data={data}", "batch_norm.sync=batch")
        task = small.training(*mesh)
        states, seen = small.run(task, 5)
        scores = {name: np.array(value) for name, value in task.evaluate(states).items()}
        ends.append((copied(task, states), seen, scores))
    (one, *told_by_one), (eight, *told_by_eight) = ends
    near(told_by_eight, told_by_one, 1e-10)
    for name in ("params", "stats", "weight_opt", "totals"):
        near(getattr(eight, name), getattr(one, name), 1e-10)


@pytest.mark.medium
def test_a_seed_is_the_same_to_the_bit_alone_and_beside_another(pair):
    task, states, seen = pair
    alone = small.training("seeds.first=1", "mesh.seed=1", "mesh.data=1", "weights.average=0.75")
    own, own_seen = small.run(alone, 3)
    same(of_seed(copied(task, states), 1), of_seed(copied(alone, own), 0))
    same([of_seed(one, 1) for one in seen], [of_seed(one, 0) for one in own_seen])


@pytest.mark.medium
def test_every_picture_is_scored_once_by_the_averaged_weights(pair):
    task, states, _ = pair
    found = task.evaluate(states)
    shown = task.scored
    images = normalise(shown.images, task.programs.one.model.recipe, np.float64)
    apply = jax.jit(task.programs.one.model.apply, static_argnames="train")
    for at in range(2):
        params, stats = of_seed(copied(task, states).average, at)
        logits = np.array(apply(params, stats, images, train=False)[0][0])
        order = np.argsort(-logits, axis=1, kind="stable")
        rows = np.arange(len(logits))
        wanted = {
            "loss": losses.cross_entropy(logits, shown.labels).sum(),
            "right": (order[:, 0] == shown.labels).sum(),
            "among": (order[:, :5] == shown.labels[:, None]).any(1).sum(),
            "count": len(rows),
        }
        near({name: float(found[name][at]) for name in wanted}, wanted, 1e-12)


@pytest.mark.medium
def test_the_average_of_the_weights_trails_them(pair):
    task = pair[0]
    before = copied(task, task.init())
    states, _ = small.run(task, 1)
    after = copied(task, states)
    wanted = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, before.params, after.params)
    near(after.average[0], wanted, 1e-14)


@pytest.mark.medium
def test_a_batch_in_parts_trains_as_groups_of_that_size_do():
    mesh = ("mesh.seed=1", "mesh.data=2")
    whole = small.training(*mesh, "batch_norm.sync=group:2")
    parts = small.training(*mesh, "data.accumulate=2")
    a, b = (copied(task, small.run(task, 2)[0]) for task in (whole, parts))
    near(b.params, a.params, 1e-10)
    assert any(
        np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (a.stats, b.stats)), strict=True)
    )


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        (("weights.learning_rate=0.1",), [0.1, 0.0853553390593274, 0.05, 0.0146446609406726]),
        (
            ("weights.schedule=step", "weights.learning_rate=0.1", "weights.decay=0.5"),
            [0.1, 0.05, 0.025, 0.0125],
        ),
        (
            (
                "weights.schedule=step",
                "weights.learning_rate=0.1",
                "weights.decay=0.5",
                "weights.period=2",
            ),
            [0.1, 0.1, 0.05, 0.05],
        ),
        (("weights.learning_rate=0.3", "weights.warmup_epochs=2"), [0.1, 0.2, 0.3, 0.15]),
    ],
)
def test_learning_rates_by_epoch(changes, rates):
    task = small.training(*changes)
    np.testing.assert_allclose([task.rate(epoch) for epoch in range(4)], rates)


def test_pictures_that_are_held_out_score_and_do_not_train():
    task = small.training("data.train_fraction=0.7", scored=3)
    assert task.parts["train"].tolist() == list(range(28))
    assert task.held.tolist() == list(range(28, 40))
    assert task.scored is task.pictures


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("data.global_batch=48",), "data.global_batch=48 is more than the 40 pictures"),
        (("data.accumulate=3", "mesh.data=4", "mesh.seed=1"), "data.accumulate=3 does not divide"),
        (("batch_norm.sync=group:2",), "group:2 does not divide the 1 examples"),
        (("network.classes=5",), "network.classes=5"),
        (("network.image_px=32",), "network.image_px=32"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small.training(*changes)
