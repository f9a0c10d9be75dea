"""Recurrent cells: the search cell over all candidates, and the fixed cell of a genotype.

A cell reads a whole window of inputs in one scan over time. What every step needs of the inputs
alone is multiplied before the scan, and inside it one matrix product makes all that a node, or a
level of nodes, takes from earlier states. Products are in `compute`, everything else is in at
least float32. Cells know nothing of words (`language`) and of random keys (`dropout`).

Letters: T time, N batch, H width, M nodes, E edges, K operations, J earlier states.
Source: arXiv 1806.09055, section 3.1.2, in the form of its code.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from darts_dist.nets.init import uniform
from darts_dist.nets.norm import (
    EPSILON,
    MOMENTUM,
    RunningStatistics,
    examples_seen,
    mean_and_variance,
    unbiased,
)

INIT_RANGE = 0.04
MOMENTS = "moments"  # what a norm has averaged, maybe over devices: never computed twice
ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}


def product(x, w, compute):
    """Returns x @ w, multiplied in `compute` and summed in at least float32."""
    wide = jnp.promote_types(compute, jnp.float32)
    # With one axis of rows, XLA on CPU has less to transpose in the backward pass.
    rows = x.reshape(-1, x.shape[-1]) if w.ndim == 2 else x
    out = jnp.matmul(rows.astype(compute), w.astype(compute), preferred_element_type=wide)
    return out.reshape(*x.shape[:-1], w.shape[-1])


def masked(x, mask):
    """Returns x times the mask f[N, H]; x itself where there is none."""
    return x if mask is None else x * jnp.broadcast_to(mask, x.shape)


class RecurrentCell(nnx.Module):
    """What both cells share: their matrices, the first state, and the scan over a window.

    Each product makes a gate and a candidate side by side; a state is its predecessor moved by the
    gate towards the activated candidate.  Of a step the backward pass finds what products and norms
    gave, and computes the rest again; with `remat` the products too.
    """

    def __init__(self, width, nodes, *, keys, compute, remat, dtype):
        self.width, self.compute, self.remat = width, compute, remat
        self.first = nnx.Param(uniform(keys, (2 * width, 2 * width), INIT_RANGE, dtype))
        self.nodes = nnx.Param(uniform(keys, (nodes, width, 2 * width), INIT_RANGE, dtype))

    def scan(self, inputs, hidden, mask, length, finish):
        """Returns (outputs f[T, N, H], hidden f[N, H] after the window, what else `finish` gave).

        finish(first state f[N, H]) -> (output f[N, H], more); `more` comes back stacked over time.
        length: steps of the window that count, or None for all: the others leave hidden as it is.
        """
        first = self.first.get_value()
        gates = product(inputs, first[: self.width], self.compute)
        recurrent = first[self.width :]

        def step(hidden, at):
            time, own = at
            moved = own + product(masked(hidden, mask), recurrent, self.compute)
            gate, candidate = jnp.split(moved, 2, -1)
            start = hidden + jax.nn.sigmoid(gate) * (jnp.tanh(candidate) - hidden)
            output, more = finish(start)
            carried = output if length is None else jnp.where(time < length, output, hidden)
            return carried, (output, more)

        # Storing every intermediate of every step costs far more than computing them twice.
        policies = jax.checkpoint_policies
        stored = policies.save_only_these_names(MOMENTS)
        if not self.remat:
            stored = policies.save_from_both_policies(stored, policies.dots_saveable)
        body = jax.checkpoint(step, policy=stored, prevent_cse=False)
        times = jnp.arange(len(inputs))
        hidden, (outputs, more) = jax.lax.scan(body, hidden, (times, gates))
        return outputs, hidden, more


class RecurrentSearchCell(RecurrentCell):
    """The cell over all candidates: every node sums up all activations of all earlier states.

    One batch norm without scale and shift is shared by all states and all steps. The weight of
    "none" goes to nothing. The output is the mean of the nodes' states.
    operations: names in the order of the weights' columns.  axis_name: mesh axis over which batch
    statistics are averaged, or None.
    """

    def __init__(
        self, width, nodes, operations, *, keys, axis_name, compute, remat, dtype=jnp.float32
    ):
        super().__init__(width, nodes, keys=keys, compute=compute, remat=remat, dtype=dtype)
        self.taken = tuple((k, name) for k, name in enumerate(operations) if name != "none")
        self.axis_name = axis_name
        self.statistics = RunningStatistics((width,), dtype)

    def __call__(self, inputs, hidden, weights, mask, length, *, train):
        """Returns (outputs f[T, N, H], hidden f[N, H]).

        inputs: f[T, N, H].  hidden: f[N, H], of the step before the window.  weights: f[E, K], the
        edges of each node by their states.  mask: f[N, H] on states before products, or None.
        length: see `scan`; other steps do not move the running statistics either.
        """
        matrices = list(self.nodes.get_value())
        ends = np.cumsum([1 + node for node in range(len(matrices))])
        rows = jnp.split(weights[:, [k for k, _ in self.taken], None, None], ends[:-1])
        running = self.statistics.read()

        def finish(start):
            moments = []

            def normalise(x):
                if train:
                    own = jnp.stack((x.mean(0), jnp.square(x).mean(0)))
                    averaged = mean_and_variance(own, self.axis_name)
                    mean, variance = (checkpoint_name(m, MOMENTS) for m in averaged)
                    moments.append((mean, variance))
                else:
                    mean, variance = running
                # XLA repeats a product in whatever reads it, backward node after node, and halves
                # the speed of the step; a quotient it computes once.
                return (x - _row(mean, x)) / _row(jnp.sqrt(variance + EPSILON), x)

            states = normalise(start)[None]
            for matrix, mixture in zip(matrices, rows, strict=True):
                state = normalise(self._mix(states, matrix, mixture, mask))
                states = jnp.concatenate([states, state[None]])
            return states[1:].mean(0), tuple(jnp.stack(m) for m in zip(*moments, strict=True))

        outputs, hidden, moments = self.scan(inputs, hidden, mask, length, finish)
        if train:
            self._move_statistics(moments, len(inputs[0]), length)
        return outputs, hidden

    def _mix(self, states, matrix, mixture, mask):
        """Returns a node's state before its norm; states f[J, N, H], mixture f[J, K, 1, 1]."""
        moved = product(masked(states, mask), matrix, self.compute)
        gate, candidate = jnp.split(moved, 2, -1)
        gate = jax.nn.sigmoid(gate)
        activated = sum(
            _times(mixture[:, at], ACTIVATIONS[name](candidate))
            for at, (_, name) in enumerate(self.taken)
        )
        kept = _times(mixture.sum(1), states)
        return (kept + gate * (activated - kept)).sum(0)

    def _move_statistics(self, moments, count, length):
        """Moves the running statistics as one call after the other would, in one sum.

        moments: (means, variances), f[T, 1 + M, H] each.
        """
        means, variances = (m.reshape(-1, self.width) for m in moments)
        calls = len(means) if length is None else length * moments[0].shape[1]
        age = calls - 1 - jnp.arange(len(means))
        old_mean, old_var = self.statistics.read()
        kept = jnp.asarray(1 - MOMENTUM, old_mean.dtype)
        share = jnp.where(age < 0, 0, MOMENTUM * kept ** jnp.maximum(age, 0))[:, None]
        variances = unbiased(variances, examples_seen(count, self.axis_name))
        for value, old, new in (
            (self.statistics.mean, old_mean, means),
            (self.statistics.var, old_var, variances),
        ):
            value.set_value(kept**calls * old + (_times(share, new)).sum(0).astype(old.dtype))


class RecurrentFixedCell(RecurrentCell):
    """The cell of a genotype: one activation of one earlier state a node, no norm.

    genotype: `genotype.RnnGenotype`.  The output is the mean of the states of its concat.
    """

    def __init__(self, width, genotype, *, keys, compute, remat, dtype=jnp.float32):
        self.genotype = genotype
        nodes = len(genotype.recurrent)
        super().__init__(width, nodes, keys=keys, compute=compute, remat=remat, dtype=dtype)

    def __call__(self, inputs, hidden, weights, mask, length, *, train):
        """Returns (outputs f[T, N, H], hidden f[N, H]); see `RecurrentSearchCell`.

        weights, train: without effect.
        """
        del weights, train
        entries, matrices = self.genotype.recurrent, self.nodes.get_value()
        groups = [(level, matrices[np.array(level)]) for level in levels(entries)]

        def finish(start):
            states = {0: start}
            for level, own in groups:
                before = jnp.stack([states[entries[node][1]] for node in level])
                moved = product(masked(before, mask), own, self.compute)
                gates, candidates = jnp.split(moved, 2, -1)
                for at, node in enumerate(level):
                    activated = ACTIVATIONS[entries[node][0]](candidates[at])
                    gate = jax.nn.sigmoid(gates[at])
                    states[node + 1] = before[at] + gate * (activated - before[at])
            return jnp.stack([states[s] for s in self.genotype.concat]).mean(0), None

        outputs, hidden, _ = self.scan(inputs, hidden, mask, length, finish)
        return outputs, hidden


def levels(entries):
    """Returns the nodes of a cell in groups, each of those that earlier groups suffice for.

    entries: (activation, state) of each node; state 0 is the first, state i + 1 is node i's.
    """
    depths = [0]
    for _, state in entries:
        depths.append(depths[state] + 1)
    return tuple(
        tuple(node for node, depth in enumerate(depths[1:]) if depth == level)
        for level in range(1, 1 + max(depths))
    )


def _row(value, x):
    return jnp.broadcast_to(value, x.shape)


def _times(factor, x):
    return jnp.broadcast_to(factor, x.shape) * x
