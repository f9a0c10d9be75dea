"""Recipes of the alpha gradient over losses written down plainly: against the paper's example and
against differentiating through the step as a whole.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darts_dist import optim
from darts_dist.config import Config, Method, Weights
from darts_dist.methods.hypergradient import HYPERGRADIENTS, Gradient, Passes, keeping
from darts_dist.searchwork import SearchSeed

MOMENTUM, DECAY, RATE = 0.7, 0.2, 0.3


def plain(momentum=0.0, decay=0.0, radius=0.01):
    """Passes over batches that are losses f(params, alphas); statistics list where passes were."""

    def gradient(params, stats, alphas, batch, wrt="both"):
        loss, (by_params, by_alphas) = jax.value_and_grad(batch, (0, 1))(params, alphas)
        by_params = None if wrt == "alphas" else by_params
        return Gradient(by_params, by_alphas, (*stats, (batch, params)), {"loss": loss})

    def lookahead(params, buffer, grads, rate):
        return jax.tree.map(
            lambda w, m, g: w - rate * (momentum * m + g + decay * w), params, buffer, grads
        )

    def product(params, stats, alphas, vector, batch):
        def along(alphas):
            return jax.jvp(lambda w: batch(w, alphas), (params,), (vector,))[1]

        return jax.grad(along)(alphas), (*stats, (batch, params))

    def step(vector):
        return radius / norm(vector)

    def perturb(params, vector):
        return tuple(
            jax.tree.map(lambda w, v, s=sign: w + s * step(vector) * v, params, vector)
            for sign in (1, -1)
        )

    def quotient(plus, minus, vector):
        return jax.tree.map(lambda p, m: (p - m) / (2 * step(vector)), plus, minus)

    return Passes(gradient, lookahead, product, perturb, quotient)


def norm(tree):
    return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)))


def alpha_gradient(hyper, rate):
    """What the alpha step makes of a hypergradient."""
    if hyper.implicit is None:
        return hyper.direct
    return jax.tree.map(lambda d, i: d - rate * i, hyper.direct, hyper.implicit)


def through_the_step(weights, alphas, buffer, train, valid):
    """The derivative of V(w - x (mu m + dL/dw + d w), a) by a, nothing taken apart."""

    def value(alphas):
        grads = jax.grad(train)(weights, alphas)
        ahead = jax.tree.map(
            lambda w, m, g: w - RATE * (MOMENTUM * m + g + DECAY * w), weights, buffer, grads
        )
        return valid(ahead, alphas)

    return jax.grad(value)(alphas)


def distance(found, wanted):
    """Largest difference, as a share of the largest wanted value."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True))
    return max(abs(a - b).max() for a, b in pairs) / max(abs(b).max() for _, b in pairs)


def random_tree(seed, like):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: jnp.asarray(rng.normal(size=shape)), like, is_leaf=is_shape)


def is_shape(x):
    return isinstance(x, tuple) and all(isinstance(size, int) for size in x)


SHAPES = {"in": (4, 5), "out": {"weight": (5, 3), "shift": (3,)}}
ALPHA_SHAPES = {"normal": (2, 5), "reduce": (3,)}


def two_layers(seed, bend):
    """A loss of a net with one bent layer, in which alphas weigh hidden and output units."""
    inputs, wanted = random_tree(seed, ((9, 4), (9, 3)))

    def loss(params, alphas):
        mixed = jax.nn.softmax(alphas["normal"]).sum(0, keepdims=True)
        hidden = bend(inputs @ params["in"]) * mixed
        out = hidden @ params["out"]["weight"] + params["out"]["shift"][None]
        return jnp.square(out * jnp.exp(alphas["reduce"])[None] - wanted).mean()

    return loss


def parts(name, point, train, valid, radius=0.01):
    weights, alphas, buffer = point
    passes = plain(MOMENTUM, DECAY, radius)
    return HYPERGRADIENTS[name](passes, weights, (), alphas, buffer, RATE, train, valid)


def hypergradient(*case):
    return alpha_gradient(parts(*case), RATE)


def point():
    weights, alphas, buffer = (
        random_tree(seed, like) for seed, like in enumerate((SHAPES, ALPHA_SHAPES, SHAPES))
    )
    return weights, alphas, buffer


@pytest.mark.parametrize(
    ("name", "end"), (("first", 2.0), ("exact", 1.0), ("finite_difference", 1.0))
)
def test_the_papers_example_ends_where_its_figure_shows(float64, name, end):
    def train(w, a):
        return w**2 - 2 * a * w + a**2

    def valid(w, a):
        return a * w - 2 * a + 1

    def turn(_, at):
        alpha, weight = at
        found = HYPERGRADIENTS[name](plain(), weight, (), alpha, 0.0, 0.5, train, valid)
        alpha -= 0.1 * alpha_gradient(found, 0.5)
        return alpha, weight - 0.1 * jax.grad(train)(weight, alpha)

    alpha, weight = jax.lax.fori_loop(0, 600, turn, (jnp.float64(2), jnp.float64(-2)))
    np.testing.assert_allclose([alpha, weight], [end, end], rtol=1e-9)


def test_exact_is_the_derivative_through_the_whole_step(float64):
    train, valid = two_layers(10, jnp.tanh), two_layers(11, jnp.tanh)
    wanted = through_the_step(*point(), train, valid)
    assert distance(hypergradient("exact", point(), train, valid), wanted) < 1e-9
    assert distance(hypergradient("first", point(), train, valid), wanted) > 0.1


def test_a_clipped_step_is_differentiated_with_its_factor_as_a_constant(float64):
    train, large = two_layers(10, jnp.tanh), two_layers(11, jnp.tanh)
    weights, alphas, buffer = point()
    half = norm(jax.grad(train)(weights, alphas)) / 2

    def valid(weights, alphas):  # its gradient is below the limit
        return 1e-3 * large(weights, alphas)

    def clip(grads):
        return optim.clip(grads, half)

    def scale(tree, factor):
        return jax.tree.map(lambda x: factor * x, tree)

    def clipped_train(weights, alphas):
        return train(weights, alphas) / 2

    wanted = through_the_step(weights, alphas, buffer, clipped_train, valid)
    for name, limit in (("exact", 1e-5), ("finite_difference", 1e-2)):
        passes = dataclasses.replace(plain(MOMENTUM, DECAY), clip=clip, scale=scale)
        hyper = HYPERGRADIENTS[name](passes, weights, (), alphas, buffer, RATE, train, valid)
        assert distance(alpha_gradient(hyper, RATE), wanted) < limit


def test_a_lookahead_leaves_named_parameters_as_they_were():
    passes = plain(MOMENTUM, DECAY)
    weights, _, buffer = point()
    ahead = keeping(passes.lookahead, ("in",))(weights, buffer, weights, RATE)
    assert ahead["in"] is weights["in"]
    assert (ahead["out"]["shift"] != weights["out"]["shift"]).all()


def test_differences_reach_the_derivative_as_the_radius_shrinks(float64):
    train, valid = two_layers(10, jnp.tanh), two_layers(11, jnp.tanh)
    wanted = through_the_step(*point(), train, valid)
    errors = [
        distance(hypergradient("finite_difference", point(), train, valid, radius), wanted)
        for radius in (1e-1, 1e-2, 1e-3)
    ]
    assert errors[-1] < 1e-7
    ratios = np.divide(errors[:-1], errors[1:])
    np.testing.assert_allclose(ratios, 100, rtol=0.05)  # the error is of second order


def test_differences_across_kinks_are_not_the_derivative(float64):
    inputs = random_tree(12, (300, 4))

    def train(params, alphas):  # in the weights piecewise linear: only kinks make an error
        hidden = jax.nn.relu(inputs @ params["in"]).mean(0)
        return (hidden * jax.nn.softmax(alphas["normal"]).sum(0)).sum()

    valid = two_layers(11, jax.nn.relu)
    wanted = parts("exact", point(), train, valid).implicit
    between, across = (
        distance(parts("finite_difference", point(), train, valid, radius).implicit, wanted)
        for radius in (1e-5, 0.3)
    )
    assert between < 1e-9 and across > 1e-3


def test_differences_of_single_precision_need_a_radius_that_is_not_tiny():
    train, valid = two_layers(10, jnp.tanh), two_layers(11, jnp.tanh)
    wanted = through_the_step(*point(), train, valid)
    fine, tiny = (
        distance(hypergradient("finite_difference", point(), train, valid, radius), wanted)
        for radius in (1e-2, 1e-6)
    )
    assert fine < 1e-3 < 1e-2 < tiny


def test_statistics_are_moved_by_the_passes_beside_the_weights_alone(float64):
    train, valid = two_layers(10, jnp.tanh), two_layers(11, jnp.tanh)
    weights, alphas, buffer = point()
    radius = 0.25

    def moved(name):
        return parts(name, (weights, alphas, buffer), train, valid, radius).stats

    assert moved("first") == ((valid, weights),)
    assert moved("exact") == ((train, weights),) * 2
    (_, here), (_, plus), (_, minus) = moved("finite_difference")
    assert here is weights and [batch for batch, _ in moved("finite_difference")] == [train] * 3
    for side in (plus, minus):
        np.testing.assert_allclose(norm(jax.tree.map(jnp.subtract, side, weights)), radius)
    np.testing.assert_allclose(norm(jax.tree.map(jnp.subtract, plus, minus)), 2 * radius)


def test_the_pieces_that_search_compiles_are_those_written_down_here(float64):
    config = Config(
        method=Method(radius=0.25),
        weights=Weights(momentum=MOMENTUM, weight_decay=DECAY, clip_norm=0.5),
    )
    one = SearchSeed(config, None, 1)
    weights, grads, buffer = (random_tree(seed, SHAPES) for seed in range(3))
    plus, minus = (random_tree(seed, ALPHA_SHAPES) for seed in range(2))

    def results(pieces):
        return (
            pieces.lookahead(weights, buffer, grads, jnp.float64(RATE)),
            pieces.perturb(weights, grads),
            pieces.quotient(plus, minus, grads),
        )

    clipped, factor = one.clip(grads, capped=False)
    assert distance(one.scale(grads, factor), clipped) < 1e-14  # the norm is above the limit

    found, wanted = results(one), results(plain(MOMENTUM, DECAY, 0.25))
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    assert distance(found, wanted) < 1e-14
