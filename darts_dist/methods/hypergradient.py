"""Gradients of the validation loss with respect to alphas, through a step of the weights or not.

Each function here is a recipe over `Passes`, four pieces that the step builder compiles (or a
test writes down plainly); all of them average over the data replicas of a seed before they return.
Notation: w weights, a alphas, x the learning
rate, m the momentum buffer, mu the momentum, d the weight decay, L the training and V the
validation loss.

`exact` and `finite_difference` are not two ways to the same number: at the original's radius
ReLU and max-pool kinks lie between the two points, and the quotient is far from the derivative.
"""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Passes:
    """What a hypergradient is made of; `point` = (params, stats, alphas) of a seed, batches are
    (images, labels).

    gradient(params, stats, alphas, batch, wrt="both") -> Gradient; wrt "alphas" may leave
    its params None.
    lookahead(params, momentum, grads, rate) -> w - x (mu m + dL/dw + d w), the momentum m a
    constant.
    product(params, stats, alphas, vector, batch) -> (d/da of the derivative of L along the
    vector in w, moved stats).
    perturb(params, vector) -> (w + r vector, w - r vector) with r = radius / |vector|.
    quotient(plus, minus, vector) -> (plus - minus) / 2r.
    """

    gradient: Callable
    lookahead: Callable
    product: Callable
    perturb: Callable
    quotient: Callable


@dataclasses.dataclass(frozen=True)
class Gradient:
    """Of one pass over a batch:
    gradients by params and by alphas, the statistics it moved, its metrics.
    """

    params: Any
    alphas: Any
    stats: Any
    metrics: Any


@dataclasses.dataclass(frozen=True)
class Hypergradient:
    """The alpha gradient is direct - rate * implicit (implicit None: direct alone); stats:
    moved by its passes on w.
    """

    direct: Any
    implicit: Any
    stats: Any
    metrics: Any


def first(passes, params, stats, alphas, momentum, rate, train, valid):
    """Returns dV(w, a)/da: first order, x = 0 (arXiv 1806.09055, section 2.3)."""
    del momentum, rate, train
    here = passes.gradient(params, stats, alphas, valid, wrt="alphas")
    return Hypergradient(here.alphas, None, here.stats, here.metrics)


def exact(passes, params, stats, alphas, momentum, rate, train, valid):
    """Returns dV(w', a)/da in full: the mixed second derivative is taken as d/da of a
    directional derivative (eq. 7).

    Equal to differentiating V(w - x (mu m + dL/dw + d w), a) as a whole; costs about one
    gradient pass more.
    """
    here = passes.gradient(params, stats, alphas, train)
    ahead = passes.lookahead(params, momentum, here.params, rate)
    there = passes.gradient(ahead, stats, alphas, valid)
    implicit, moved = passes.product(params, here.stats, alphas, there.params, train)
    return Hypergradient(there.alphas, implicit, moved, there.metrics)


def finite_difference(passes, params, stats, alphas, momentum, rate, train, valid):
    """Returns the original's second order:
    the mixed derivative as a central difference along dV/dw' (eq. 8).
    """
    here = passes.gradient(params, stats, alphas, train)
    ahead = passes.lookahead(params, momentum, here.params, rate)
    there = passes.gradient(ahead, stats, alphas, valid)
    up, down = passes.perturb(params, there.params)
    plus = passes.gradient(up, here.stats, alphas, train)
    minus = passes.gradient(down, plus.stats, alphas, train)
    implicit = passes.quotient(plus.alphas, minus.alphas, there.params)
    return Hypergradient(there.alphas, implicit, minus.stats, there.metrics)


HYPERGRADIENTS = {"first": first, "exact": exact, "finite_difference": finite_difference}
