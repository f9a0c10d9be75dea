"""Averaged SGD as the original runs it, and clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darts_dist import optim

PLAIN = optim.sgd(0.0, 0)


def course(rates, averages):
    """Parameters and averages after each step down a slope of -1."""
    params = {"w": jnp.zeros(1)}
    state, averaging, shown = PLAIN.init(params), optim.begin_averaging(params), []
    for rate, on in zip(rates, averages, strict=True):
        params, state, averaging = optim.descend_averaged(
            PLAIN, rate, {"w": -jnp.ones(1)}, state, params, averaging, on
        )
        shown.append((float(params["w"][0]), float(averaging.average["w"][0])))
    return np.array(shown).T


def test_averaged_sgd_lags_a_rate_behind_and_leaves_the_first_step_out():
    params, averages = course((1, 2, 3, 4), (True,) * 4)
    np.testing.assert_allclose(params, (1, 2, 4, 7))
    np.testing.assert_allclose(averages, (1, 2, 3, 13 / 3), rtol=1e-6)


def test_before_averaging_it_is_plain_sgd_and_begins_where_it_is_told():
    params, averages = course((1, 2, 3, 4, 5, 6), (False, False, True, True, True, True))
    np.testing.assert_allclose(params, (1, 3, 6, 9, 13, 18))  # 3, then 3, 4, 5: one behind
    np.testing.assert_allclose(averages[:4], params[:4])
    np.testing.assert_allclose(averages[4:], ((9 + 13) / 2, (9 + 13 + 18) / 3), rtol=1e-6)


def test_averaging_goes_through_jit_with_its_switch_as_a_value():
    step = jax.jit(lambda *args: optim.descend_averaged(PLAIN, *args))
    params = {"w": jnp.zeros(1)}
    state, averaging = PLAIN.init(params), optim.begin_averaging(params)
    for on in (False, True, True):
        grads = {"w": -jnp.ones(1)}
        params, state, averaging = step(1.0, grads, state, params, averaging, jnp.asarray(on))
    assert int(averaging.count) == 2 and step._cache_size() == 1


@pytest.mark.parametrize(
    ("losses", "due"),
    [
        ((5, 4, 3), False),  # too few
        ((5, 4, 6, 7), True),  # above the best of all but the last two before it
        ((5, 4, 6, 5), False),  # not above
        ((5, 4, 3, 4.5), False),
        ((5, 3, 9, 9, 3.1), True),
        ((5, 4, 3, 2, 3.9), False),  # 3 and 2 are too new to count
        ((5, 4, 3, 2, 4.1), True),
    ],
)
def test_averaging_is_due_when_the_newest_loss_is_above_an_old_one(losses, due):
    assert optim.averaging_is_due(losses, 2) is due


def test_clipping_gives_its_factor_at_most_one_or_as_the_original_takes_it():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    for limit, scale in ((2.5, 0.5), (50.0, 1.0)):
        clipped, factor = optim.clip(grads, limit)
        same, raw = optim.clip(grads, limit, capped=False)
        np.testing.assert_allclose((clipped["a"][0], same["b"][0]), (3 * scale, 4 * scale), 1e-6)
        np.testing.assert_allclose((factor, raw), (scale, limit / 5), 1e-6)


def test_decay_is_added_after_clipping():
    transformation = optim.sgd(0.5, 1.0)
    params, grads = jnp.array([2.0]), jnp.array([10.0])
    moved, _ = optim.descend(transformation, 1.0, grads, transformation.init(params), params)
    np.testing.assert_allclose(moved, 2 - (1 + 0.5 * 2), rtol=1e-5)
