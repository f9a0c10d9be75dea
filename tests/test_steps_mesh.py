"""The same search on one device and shared out over eight, in double precision."""

import jax
import numpy as np
import pytest
import small_search as small

pytestmark = pytest.mark.medium


@pytest.mark.parametrize("hypergradient", ["first", "exact"])
def test_eight_devices_take_the_steps_of_one(float64, hypergradient):
    sizes = ("seeds.count=2", "batch_norm.sync=batch", f"method.hypergradient={hypergradient}")
    batches, ends = small.pictures(seeds=2, steps=5), []
    for seed, data in ((1, 1), (2, 4)):
        step = small.search(*sizes, f"mesh.seed={seed}", f"mesh.data={data}")
        blocks, seen = small.run(step, range(2), batches, rate=0.025)
        ends.append((small.copied(step.join(blocks)), seen))
    (one, shown_by_one), (eight, shown_by_eight) = ends
    assert one.step.tolist() == [5, 5] and one.alive.all()
    small.near(shown_by_eight, shown_by_one, 1e-10)
    parts = ("params", "stats", "alphas", "weight_opt", "totals")
    for name in parts:
        small.near(getattr(eight, name), getattr(one, name), 1e-10)
    first, second = (small.of_seed(one.params, at) for at in range(2))
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))
