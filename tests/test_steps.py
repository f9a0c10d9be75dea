"""The search step: what it computes, against the same written down in one piece; what becomes of a
seed that is non-finite.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_search as small

from darts_dist.methods import PRESETS
from darts_dist.programs import BATCH
from darts_dist.spaces import cnn

pytestmark = pytest.mark.medium

RATE = 0.1
PAIR = ("seeds.count=2", "mesh.seed=2", "mesh.data=2", "batch_norm.sync=batch")
EXACT = (*PAIR, "method.hypergradient=exact")
PART = ("network.layers=1", "method.hypergradient=first")  # for what needs no depth


@pytest.fixture(autouse=True, scope="module")
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def exact():
    return small.search(*EXACT)


def plain_loss(step):
    """The mean cross entropy of a batch and the statistics moved, for one device."""
    config = step.config
    alone = small.config_of(f"network.layers={config.network.layers}")
    _, apply = cnn.build(alone, small.CLASSES)

    def loss(params, stats, alphas, batch):
        images, labels = batch
        weights = jax.tree.map(jax.nn.softmax, alphas)
        logits, moved = apply(params, stats, images, weights, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), moved

    return loss


def update(step, state, train, valid, **options):
    """One step on batches [S, N, ...]; copies of the state after it and of its metrics."""
    train, valid = step.place((train, valid), BATCH, whole=True)
    state, metrics = step.update(state, {"train": train, "valid": valid}, RATE, **options)
    return state, *small.copied((state, metrics))


def test_exact_is_the_derivative_through_the_whole_lookahead(exact):
    state, (train, valid) = small.begun(exact), small.prepared(exact, 0)
    before = small.copied(state)
    loss, weights = plain_loss(exact), exact.config.weights

    @jax.jit
    def through(alphas, params, stats, buffer, train, valid, rate):
        def value(alphas):
            grads = jax.grad(loss, has_aux=True)(params, stats, alphas, train)[0]
            ahead = jax.tree.map(
                lambda w, m, g: w - rate * (weights.momentum * m + g + weights.weight_decay * w),
                *(params, buffer, grads),
            )
            return loss(ahead, stats, alphas, valid)[0]

        return jax.value_and_grad(value)(alphas)

    _, _, metrics = update(exact, state, train, valid)
    for at in range(2):
        own = small.of_seed(before, at)
        buffer = optax.tree.get(own.weight_opt, "trace")
        point = (own.alphas, own.params, own.stats, buffer, *small.of_seed((train, valid), at))
        value, wanted = through(*point, RATE)
        found = small.of_seed(metrics, at)
        small.near(found["alpha_grads"], jax.tree.map(np.asarray, wanted), 1e-9)
        np.testing.assert_allclose(found["valid_loss"], value, rtol=1e-9)
        _, first = through(*point, 0.0)
        for cell in wanted:  # the lookahead is no small part of it
            assert abs(first[cell] - wanted[cell]).max() > 0.01 * abs(wanted[cell]).max()


@pytest.mark.parametrize("stream", (0, 1), ids=("train", "valid"))
def test_a_seed_that_becomes_non_finite_stays_behind_alone(exact, stream):
    first, second = small.prepared(exact, 0), small.prepared(exact, 1)
    broken = small.prepared(exact, 0)
    broken[stream][0][1, -1, 0, 0, 0] = np.nan  # one pixel of the second seed's last picture
    start = small.copied(small.begun(exact))
    clean, after_clean, _ = update(exact, small.begun(exact), *first)
    state, after, metrics = update(exact, small.begun(exact), *broken)
    for step in (1, 2):
        assert after.alive.tolist() == metrics["alive"].tolist() == [True, False]
        small.same(small.of_seed(after, 0), small.of_seed(after_clean, 0))
        left = dataclasses.replace(small.of_seed(start, 1), step=np.int32(step), alive=False)
        small.same(small.of_seed(after, 1), left)
        clean, after_clean, _ = update(exact, clean, *second)
        state, after, metrics = update(exact, state, *second)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_ready_to_compile_ahead_of_time(preset):
    step = small.search(*PAIR, "network.layers=1", f"method.preset={preset}")
    step.trace((small.PX, small.PX, 3))
    wanted = {"first": 2, "exact": 4, "finite_difference": 5}[PRESETS[preset].hypergradient]
    passes = ("gradient_params", "gradient_alphas", "gradient_both", "product")
    assert sum(step.programs[name].uses for name in passes if name in step.programs) == wanted


def test_without_the_architect_only_weights_move(exact):
    start = small.copied(small.begun(exact))
    _, after, metrics = update(
        exact, small.begun(exact), *small.prepared(exact, 0), architect=False
    )
    small.same((after.alphas, after.alpha_opt), (start.alphas, start.alpha_opt))
    assert not any("alpha" in name or "valid" in name for name in metrics)
    for moved, old in zip(*map(jax.tree.leaves, (after.params, start.params)), strict=True):
        assert (moved != old).any()


def test_alphas_follow_their_gradients_by_adam(exact):
    knobs, state = exact.config.alphas, small.begun(exact)
    (one, two), alphas = knobs.betas, small.copied(state.alphas)
    first = second = jax.tree.map(np.zeros_like, alphas)
    for t in (1, 2, 3):
        state, after, metrics = update(exact, state, *small.prepared(exact, t))
        grads = jax.tree.map(
            lambda g, a: g + knobs.weight_decay * a, metrics["alpha_grads"], alphas
        )
        first = jax.tree.map(lambda m, g: one * m + (1 - one) * g, first, grads)
        second = jax.tree.map(lambda v, g: two * v + (1 - two) * g**2, second, grads)
        rate = knobs.learning_rate * np.sqrt(1 - two**t) / (1 - one**t)
        alphas = jax.tree.map(
            lambda a, m, v, rate=rate: a - rate * m / (np.sqrt(v) + knobs.epsilon),
            *(alphas, first, second),
        )
        small.near(after.alphas, alphas, 1e-12)


def test_alpha_steps_move_running_statistics_only_where_they_are_told_to(exact):
    train, valid = small.prepared(exact, 0)
    start = small.copied(small.begun(exact))
    loss = jax.jit(plain_loss(exact))
    move = small.search(*EXACT, "method.architect_statistics=move")
    for step, passes in ((exact, 0), (move, 2)):
        _, after, _ = update(step, small.begun(step), train, valid)
        for at in range(2):
            own = small.of_seed(start, at)
            stats, batch = own.stats, small.of_seed(train, at)
            for _ in range(passes):  # of the weights as they were, under alphas as they were
                _, stats = loss(own.params, stats, own.alphas, batch)
            _, stats = loss(own.params, stats, small.of_seed(after.alphas, at), batch)
            small.near(small.of_seed(after.stats, at), jax.tree.map(np.asarray, stats), 1e-9)


def test_recomputing_cells_changes_no_number(exact):
    remat = small.search(*EXACT, "network.remat=true")
    batches = small.prepared(exact, 0)
    plain, recomputed = (update(step, small.begun(step), *batches)[1:] for step in (exact, remat))
    small.near(recomputed, plain, 1e-10)


@pytest.mark.parametrize(
    ("sync", "size"), (("group:2", 2), ("state", 4), ("batch", 8)), ids=lambda value: str(value)
)
def test_norms_see_groups_of_the_batch(sync, size):
    step = small.search(*PART, "mesh.data=2", "mesh.seed=1", f"batch_norm.sync={sync}")
    start, (train, valid) = small.copied(small.begun(step)), small.prepared(step, 0)
    _, after, metrics = update(step, small.begun(step), train, valid)
    alone, weights = plain_loss(step), step.config.weights

    @jax.jit
    def grouped(params, alphas, stats, batch):
        parts = [alone(params, stats, alphas, own) for own in batch]
        loss, moved = jax.tree.map(lambda *x: jnp.stack(x).mean(0), *parts)
        return loss, moved

    def groups(batch):
        return [
            small.of_seed(batch, (0, slice(at, at + size))) for at in range(0, small.ROWS, size)
        ]

    own, moved = small.of_seed((start, after), 0)
    gradient = jax.value_and_grad(grouped, (0, 1), has_aux=True)
    (valid_loss, _), (_, alphas) = gradient(own.params, own.alphas, own.stats, groups(valid))
    (loss, stats), (grads, _) = gradient(own.params, moved.alphas, own.stats, groups(train))
    factor = weights.clip_norm / (optax.tree.norm(grads) + 1e-6)
    assert factor < 1
    buffer = optax.tree.get(own.weight_opt, "trace")
    params = jax.tree.map(
        lambda w, m, g: w - RATE * (weights.momentum * m + factor * g + weights.weight_decay * w),
        *(own.params, buffer, grads),
    )
    wanted = {"loss": loss, "valid_loss": valid_loss, "alpha_grads": alphas}
    found = small.of_seed({name: metrics[name] for name in wanted}, 0)
    small.near((moved.params, moved.stats), jax.tree.map(np.asarray, (params, stats)), 1e-9)
    small.near(found, jax.tree.map(np.asarray, wanted), 1e-9)


def test_bfloat16_is_near_float32_and_its_state_stays_float32():
    with jax.enable_x64(False):
        seen, batches = [], small.pictures(seeds=1, steps=4)
        for compute in ("float32", "bfloat16"):
            step = small.search(*PART, "mesh.seed=1", "mesh.data=1", f"precision.compute={compute}")
            (state,), metrics = small.run(step, [0], batches)
            kinds = {x.dtype for x in jax.tree.leaves((small.copied(state), metrics))}
            assert {kind.name for kind in kinds if kind.kind not in "iu"} == {"float32", "bool"}
            assert metrics[-1]["alive"].all()
            seen.append(metrics)
    wide, narrow = (np.array([one["loss"][0] for one in metrics]) for metrics in seen)
    assert np.isfinite(narrow).all() and (narrow != wide).any()
    np.testing.assert_allclose(narrow, wide, rtol=0.01)
    wide, narrow = (metrics[0]["alpha_grads"]["reduce"] for metrics in seen)
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=0.05 * abs(wide).max())
