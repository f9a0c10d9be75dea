"""The same search over one device and over eight, of a seed alone and beside others, in double
precision; what it counts and scores over all of them.
"""

import jax
import numpy as np
import pytest
import small_search as small

from darts_dist.data.augment import normalise

pytestmark = pytest.mark.medium

PART = ("network.layers=1", "method.hypergradient=first")  # for what needs no depth
CROWD = ("seeds.count=4", "mesh.seed=2", "mesh.data=2")  # two seeds for each group of devices


@pytest.fixture(autouse=True, scope="module")
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def crowd():
    """A step of four seeds, and what four steps gave: (step, batches, blocks, metrics)."""
    step, batches = small.search(*PART, *CROWD), small.pictures(seeds=4, steps=4)
    return step, batches, *small.run(step, range(4), batches)


def shown(count):
    """So many batches to score, the last one half empty."""
    rng = np.random.default_rng(2)
    for last in (False,) * (count - 1) + (True,):
        yield {
            "image": rng.integers(0, 256, (small.ROWS, small.PX, small.PX, 3), np.uint8),
            "label": rng.integers(0, small.CLASSES, small.ROWS, np.int32),
            "mask": np.arange(small.ROWS) < small.ROWS // (1 + last),
        }


@pytest.mark.parametrize(("hypergradient", "layers"), (("first", 1), ("exact", 3)))
def test_eight_devices_take_the_steps_of_one(hypergradient, layers):
    sizes = (
        f"network.layers={layers}",
        f"method.hypergradient={hypergradient}",
        "batch_norm.sync=batch",
        "data.evaluate_augmented=true",
        "seeds.count=2",
    )
    batches, ends = small.pictures(seeds=2, steps=5), []
    for seed, data in ((1, 1), (2, 4)):
        step = small.search(*sizes, f"mesh.seed={seed}", f"mesh.data={data}")
        blocks, seen = small.run(step, range(2), batches)
        scores = step.join(step.evaluate(blocks, shown(2)))
        ends.append(small.copied((step.join(blocks), seen, scores)))
    (one, *told_by_one), (eight, *told_by_eight) = ends
    assert one.step.tolist() == [5, 5] and one.alive.all()
    small.near(told_by_eight, told_by_one, 1e-10)
    for name in ("params", "stats", "alphas", "weight_opt", "alpha_opt", "totals"):
        small.near(getattr(eight, name), getattr(one, name), 1e-10)
    batch = next(shown(2))  # as second batch its pictures have other places, so other crops
    once, twice = (step.join(step.evaluate(blocks, [batch] * n)) for n in (1, 2))
    assert not np.isclose(twice["loss"], 2 * np.asarray(once["loss"]), rtol=1e-9).any()
    first, second = (small.of_seed(one.params, at) for at in range(2))
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))


def test_a_seed_is_the_same_to_the_bit_alone_and_beside_more_seeds_than_groups(crowd):
    step, batches, blocks, metrics = crowd
    alone = small.search(*PART, "seeds.count=1", "mesh.seed=1", "mesh.data=2")
    assert len(blocks) == 2
    state = step.join(blocks)
    for block, again in zip(blocks, step.split(state), strict=True):
        small.same(small.copied(again), small.copied(block))
    for at in range(4):
        slices = [jax.tree.map(lambda x, at=at: x[at : at + 1], batch) for batch in batches]
        (own,), seen = small.run(alone, [at], slices)
        small.same(small.of_seed(small.copied(state), at), small.of_seed(small.copied(own), 0))
        small.same([small.of_seed(one, at) for one in metrics], [small.of_seed(m, 0) for m in seen])


def test_totals_are_sums_since_the_epoch_began(crowd):
    step, _, blocks, metrics = crowd
    assert len(metrics) == 2 * small.EPOCH_STEPS
    totals, epoch = small.copied(step.join(blocks)).totals, metrics[-small.EPOCH_STEPS :]
    wanted = {
        "loss": small.ROWS * sum(one["loss"] for one in epoch),
        "right": small.ROWS * sum(one["accuracy"] for one in epoch) / 100,
        "count": np.full(4, small.ROWS * small.EPOCH_STEPS),
    }
    small.near(totals, wanted, 1e-12)


def test_every_seed_is_scored_on_each_example_once(crowd):
    step, _, blocks, _ = crowd
    found = small.copied(step.join(step.evaluate(blocks, shown(2))))
    state = small.copied(step.join(blocks))
    apply = jax.jit(step.one.model.apply, static_argnames="train")
    for at in range(4):
        own = small.of_seed(state, at)
        weights = jax.tree.map(jax.nn.softmax, own.alphas)
        sums = {"loss": 0.0, "right": 0.0, "count": 0.0}
        for batch in shown(2):
            images = normalise(batch["image"], step.one.model.recipe, np.float64)
            logits, _ = apply(own.params, own.stats, images, weights, train=False)
            chances, labels = np.asarray(jax.nn.log_softmax(logits)), batch["label"]
            for row in np.flatnonzero(batch["mask"]):
                sums["loss"] -= chances[row, labels[row]]
                sums["right"] += float(chances[row].argmax() == labels[row])
                sums["count"] += 1
        small.near(small.of_seed(found, at), sums, 1e-12)
