"""Losses and scores of logits, against what they mean."""

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist.losses import cross_entropy, is_among, is_right, with_auxiliary

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
