"""Losses and scores of logits, against what they mean."""

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist.losses import (
    activation_penalty,
    cross_entropy,
    is_among,
    is_right,
    sequence_cross_entropy,
    temporal_penalty,
    with_auxiliary,
)

LOGITS = jnp.array([[2.0, 0.0, 1.0], [0.5, 0.5, 0.5], [-1.0, 3.0, 0.0]])
LABELS = jnp.array([0, 1, 2])


def test_smoothing_mixes_the_target_with_the_even_one():
    logs = jax.nn.log_softmax(LOGITS)
    for share in (0.0, 0.1, 0.5):
        target = (1 - share) * jax.nn.one_hot(LABELS, 3) + share / 3
        wanted = -(target * logs).sum(-1)
        np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, share), wanted, rtol=1e-6)


def test_the_auxiliary_loss_is_added_by_weight_where_there_is_one():
    alone = with_auxiliary((LOGITS, None), LABELS, 0.4, 0.1)
    np.testing.assert_array_equal(alone, cross_entropy(LOGITS, LABELS, 0.1))
    both = with_auxiliary((LOGITS, 2 * LOGITS), LABELS, 0.4, 0.1)
    wanted = alone + 0.4 * cross_entropy(2 * LOGITS, LABELS, 0.1)
    np.testing.assert_allclose(both, wanted, rtol=1e-6)


def test_an_answer_is_right_when_it_is_the_first_largest():
    np.testing.assert_array_equal(is_right(LOGITS, LABELS), (1, 0, 0))
    np.testing.assert_array_equal(is_among(LOGITS, LABELS, 1), (1, 0, 0))
    np.testing.assert_array_equal(is_among(LOGITS, LABELS, 2), (1, 1, 1))
    np.testing.assert_array_equal(is_among(LOGITS, jnp.array([1, 2, 0]), 2), (0, 0, 0))
    np.testing.assert_array_equal(is_among(LOGITS, LABELS, 5), (1, 1, 1))  # of three classes


def test_losses_of_a_text_are_means_over_the_words_that_count():
    draw = np.random.default_rng(0)
    logits, states = draw.normal(size=(5, 2, 3)), draw.normal(size=(5, 2, 4))
    targets = draw.integers(3, size=(5, 2))
    each = -np.take_along_axis(np.array(jax.nn.log_softmax(logits)), targets[..., None], -1)[..., 0]
    for length, own in ((None, 5), (5, 5), (3, 3), (2, 2)):
        found = sequence_cross_entropy(jnp.asarray(logits), jnp.asarray(targets), length)
        np.testing.assert_allclose(found, each[:own].mean(0), rtol=1e-5)
        found = activation_penalty(jnp.asarray(states), length)
        np.testing.assert_allclose(found, (states[:own] ** 2).mean((0, 2)), rtol=1e-5)
        steps = np.diff(states[:own], axis=0) ** 2
        found = temporal_penalty(jnp.asarray(states), length)
        np.testing.assert_allclose(found, steps.mean((0, 2)), rtol=1e-5)


def test_a_window_of_one_step_has_no_change_to_pay_for():
    states = jnp.ones((3, 2, 4)).at[1:].set(jnp.nan)
    np.testing.assert_array_equal(temporal_penalty(states, jnp.asarray(1)), (0, 0))
    np.testing.assert_array_equal(temporal_penalty(states[:1]), (0, 0))
