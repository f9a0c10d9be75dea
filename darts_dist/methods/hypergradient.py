"""Gradients of the validation loss with respect to alphas, through a step of the weights or not.

Each function here is a recipe over `Passes`, pieces that the step builder compiles (or a
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
    clip(grads) -> (gradients clipped, factor); scale(tree, factor) -> tree times it; None both
    where the virtual step is not clipped.
    """

    gradient: Callable
    lookahead: Callable
    product: Callable
    perturb: Callable
    quotient: Callable
    clip: Callable | None = None
    scale: Callable | None = None

    def clipped(self, grads):
        """Returns (gradients as the virtual step takes them, factor or None)."""
        return self.clip(grads) if self.clip else (grads, None)

    def scaled(self, tree, factor):
        """Returns a tree times the factor of `clipped`."""
        return self.scale(tree, factor) if self.scale else tree


@dataclasses.dataclass(frozen=True)
class Gradient:
    """Of one pass over a batch:
    gradients by params and by alphas, the statistics it moved, its metrics, what it carries on.
    """

    params: Any
    alphas: Any
    stats: Any
    metrics: Any
    carried: Any = None


@dataclasses.dataclass(frozen=True)
class Hypergradient:
    """The alpha gradient is direct - rate * implicit (implicit None: direct alone); stats:
    moved by its passes on w.  carried: by the pass over the validation batch.
    """

    direct: Any
    implicit: Any
    stats: Any
    metrics: Any
    carried: Any = None


def first(passes, params, stats, alphas, momentum, rate, train, valid):
    """Returns dV(w, a)/da: first order, x = 0 (arXiv 1806.09055, section 2.3)."""
    del momentum, rate, train
    here = passes.gradient(params, stats, alphas, valid, wrt="alphas")
    return Hypergradient(here.alphas, None, here.stats, here.metrics, here.carried)


def exact(passes, params, stats, alphas, momentum, rate, train, valid):
    """Returns dV(w', a)/da in full: the mixed second derivative is taken as d/da of a
    directional derivative (eq. 7).

    Equal to differentiating V(w - x (mu m + dL/dw + d w), a) as a whole; costs about one
    gradient pass more.  Where the virtual step clips, as the original's for recurrent cells does,
    the factor is taken for a constant, and the direction is clipped too.
    """
    here = passes.gradient(params, stats, alphas, train)
    grads, factor = passes.clipped(here.params)
    ahead = passes.lookahead(params, momentum, grads, rate)
    there = passes.gradient(ahead, stats, alphas, valid)
    vector, _ = passes.clipped(there.params)
    implicit, moved = passes.product(params, here.stats, alphas, vector, train)
    implicit = passes.scaled(implicit, factor)
    return Hypergradient(there.alphas, implicit, moved, there.metrics, there.carried)


def finite_difference(passes, params, stats, alphas, momentum, rate, train, valid):
    """Returns the original's second order:
    the mixed derivative as a central difference along dV/dw' (eq. 8); clipping as in `exact`.
    """
    here = passes.gradient(params, stats, alphas, train)
    grads, factor = passes.clipped(here.params)
    ahead = passes.lookahead(params, momentum, grads, rate)
    there = passes.gradient(ahead, stats, alphas, valid)
    vector, _ = passes.clipped(there.params)
    up, down = passes.perturb(params, vector)
    plus = passes.gradient(up, here.stats, alphas, train)
    minus = passes.gradient(down, plus.stats, alphas, train)
    implicit = passes.scaled(passes.quotient(plus.alphas, minus.alphas, vector), factor)
    return Hypergradient(there.alphas, implicit, minus.stats, there.metrics, there.carried)


def keeping(lookahead, names):
    """Returns a lookahead that leaves the named parameters as they were.

    The original's virtual step on a language model leaves the matrix of words alone: its copy is
    filled under two names, and the second still has the old values.
    """

    def kept(params, momentum, grads, rate):
        ahead = lookahead(params, momentum, grads, rate)
        return ahead | {name: params[name] for name in names}

    return kept


HYPERGRADIENTS = {"first": first, "exact": exact, "finite_difference": finite_difference}
