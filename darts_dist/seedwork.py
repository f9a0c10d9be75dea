"""What one seed does on one device: pure functions of its State and this device's part of a batch.

`steps` maps these over seeds and replicas and says in which order they run. Arguments come in the
order params, stats, alphas, batch, key. Averages over the replicas of a seed are taken here, along
the mesh axis "data".

Letters: N batch, E edges, K operations.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from darts_dist import optim
from darts_dist.programs import vary, zeros

INIT, ALPHAS, STEPS = range(3)  # what a seed's key is folded with, once
STREAMS = {"train": 1, "valid": 2, "evaluation": 3}  # of randomness, folded into the step's key
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that a run is; every leaf has a leading axis of seeds, sharded over "seed".

    step: int32.  alive: bool, false once a seed became non-finite; it then stays as it was before
    that step, its alphas apart where their own gradient was finite: they had moved by then.
    params, stats: trees of the network.  average: moving averages of both, or ().
    alphas: {"normal": f[E, K], "reduce": f[E, K]}, or {}.  weight_opt, alpha_opt: optimisers.
    totals: sums of the training loss and of what the model counts since the epoch began.
    key: of what is random about examples.
    hidden: {stream: f[N, H]}, what a recurrent network carries from window to window, sharded over
    "data" too; {} for pictures.
    averaging: `optim.Averaging` of averaged SGD, or ().  course: what evaluations have led to, or
    () (`textwork`).
    """

    step: Any
    alive: Any
    params: Any
    average: Any
    stats: Any
    alphas: Any
    weight_opt: Any
    alpha_opt: Any
    totals: Any
    key: Any
    hidden: Any = dataclasses.field(default_factory=dict)
    averaging: Any = ()
    course: Any = ()


class OneSeed:
    """The bodies of the programs that train weights.

    model: of `models` or `textmodels`.  epoch_steps: steps after which the totals start anew.
    chunks: parts of a device's examples that go through one after the other.  averaging: of the
    weights, the share that their moving average keeps a step; 0: none is kept.
    """

    def __init__(self, config, model, epoch_steps, chunks=1, averaging=0.0):
        self.config, self.model = config, model
        self.epoch_steps, self.chunks, self.averaging = epoch_steps, chunks, averaging
        self.compute = DTYPES[config.precision.compute]
        self.real = jnp.promote_types(self.compute, jnp.float32)
        sync = config.batch_norm.sync
        self.synced = sync == "batch"
        self.group = int(sync.partition(":")[2]) if sync.startswith("group:") else 0
        self.sgd = self.make_sgd(config.weights)

    def make_sgd(self, knobs):
        """Returns the optimiser of the weights, as an optax transformation."""
        return optim.momentum_sgd(knobs.momentum, knobs.weight_decay, knobs.clip_norm)

    def init(self, seed):
        """Returns the first State of a seed number."""
        key = jax.random.key(seed)
        params, stats = self.model.init(jax.random.fold_in(key, INIT))
        return State(
            step=jnp.zeros((), jnp.int32),
            alive=jnp.ones((), bool),
            params=params,
            stats=stats,
            alphas=self.model.draw_alphas(jax.random.fold_in(key, ALPHAS)),
            average=(params, stats) if self.averaging else (),
            weight_opt=self.sgd.init(params),
            alpha_opt=(),
            totals={name: jnp.zeros((), self.real) for name in self.model.total_names},
            key=jax.random.fold_in(key, STEPS),
        )

    def _forward(self, params, stats, alphas, fed):
        """Returns (outputs, moved statistics) in training, by groups of examples if need be."""

        def run(own):
            return self.model.outputs(params, stats, alphas, own, train=True)

        if not self.group:
            return run(fed)
        outputs, moved = jax.vmap(run)(_parts(fed, self.group))
        whole = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
        return whole, jax.tree.map(lambda s: s.mean(0), moved)

    def _loss(self, params, stats, alphas, batch, penalised=False):
        fed, labels = batch
        outputs, moved = self._forward(params, stats, alphas, fed)
        loss = self.model.losses(outputs, labels).mean()
        metrics = self.model.metrics(outputs, labels, loss)
        if penalised and self.model.penalises:
            loss += self.model.penalties(outputs).mean()
        return loss, (moved, metrics, self.model.carried(outputs))

    def _mean(self, moved, *trees):
        """Averages over the replicas: one all-reduce for everything a pass returns."""
        if self.synced:  # the statistics are of the whole batch already
            return moved, *jax.lax.pmean(trees, "data")
        return jax.lax.pmean((moved, *trees), "data")

    def gradient(self, wrt, penalised=False):
        """Returns the body of one pass: gradients by `wrt`, statistics moved, metrics, and what is
        carried to the next window.

        penalised: of the loss with the model's penalties.
        """
        numbers = {"params": (0,), "alphas": (2,), "both": (0, 2)}[wrt]

        def body(params, stats, alphas, batch):
            params, alphas = vary((params, alphas))
            if not self.synced:
                stats = vary(stats)
            loss = functools.partial(self._loss, penalised=penalised)
            take = jax.grad(loss, numbers, has_aux=True)
            grads, (moved, metrics, carried) = self._in_chunks(take, params, stats, alphas, batch)
            moved, grads, metrics = self._mean(moved, grads, metrics)
            named = dict(zip(numbers, grads, strict=True))
            return {
                "params": named.get(0),
                "alphas": named.get(2),
                "stats": moved,
                "metrics": metrics,
                "carried": carried,
            }

        return body

    def _in_chunks(self, take, params, stats, alphas, batch):
        """Returns what `take` does on the whole, taken chunk after chunk to save memory: means of
        gradients and metrics; the statistics move with each chunk.
        """
        if self.chunks == 1:
            return take(params, stats, alphas, batch)
        chunks = _parts(batch, len(batch[1]) // self.chunks)

        def add(carried, chunk):
            stats, sums = carried
            grads, (moved, metrics, own) = take(params, stats, alphas, chunk)
            return (moved, jax.tree.map(jnp.add, sums, (grads, metrics))), own

        first = jax.tree.map(lambda x: x[0], chunks)
        shapes = jax.eval_shape(take, params, stats, alphas, first)
        (moved, sums), carried = jax.lax.scan(
            add, (stats, zeros((shapes[0], shapes[1][1]))), chunks
        )
        grads, metrics = jax.tree.map(lambda x: x / self.chunks, sums)
        carried = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), carried)
        return grads, (moved, metrics, carried)

    def descend(self, rate, grads, state):
        """Returns (parameters, optimiser's state, averaging) after one step of the weights."""
        params, opt = optim.descend(self.sgd, rate, grads, state.weight_opt, state.params)
        return params, opt, state.averaging

    def weight_step(self, state, stats, grads, metrics, rate):
        """Returns (state, metrics) after SGD; a seed that is or becomes non-finite stays."""
        norm = optax.tree.norm(grads)
        alive = state.alive & jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        params, opt, averaging = self.descend(rate, grads, state)
        count = jnp.asarray(self.config.data.global_batch, self.real)
        sums = self.model.totals(metrics, count)
        starts = state.step % self.epoch_steps == 0
        totals = {name: jnp.where(starts, 0, state.totals[name]) + sums[name] for name in sums}
        keep = self.averaging
        average = jax.tree.map(
            lambda a, w: keep * a + (1 - keep) * w, state.average, (params, stats) if keep else ()
        )
        params, average, stats, opt, totals, averaging = where(
            alive,
            (params, average, stats, opt, totals, averaging),
            (
                state.params,
                state.average,
                state.stats,
                state.weight_opt,
                state.totals,
                state.averaging,
            ),
        )
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            alive=alive,
            params=params,
            average=average,
            stats=stats,
            weight_opt=opt,
            totals=totals,
            averaging=averaging,
        )
        return state, {"alive": alive, "grad_norm": norm, **metrics}

    def _places(self, count):
        return jax.lax.axis_index("data") * count + jnp.arange(count)

    def carry(self, alive, old, new):
        """Returns what is carried to the next step, f[N, ...] by stream: of a dead seed the old."""
        return where(alive, new, old)

    def prepare(self, step, batch, hidden, key, strength):
        """Returns (fed, labels) by stream of what a step was given, as the model takes it.

        strength: of what the model does against overfitting.
        """
        step_key = jax.random.fold_in(key, step)
        return {
            name: self.model.prepare(
                step_key, name, self._places(_count(own)), own, hidden.get(name), strength
            )
            for name, own in batch.items()
        }

    def trained(self, state):
        """Returns (params, stats) that evaluations are of."""
        return state.average if self.averaging else (state.params, state.stats)

    def evaluate(self, state, sums, carried, shown, index):
        """Returns {"sums", "carried"} after one more batch that all seeds see, by running
        statistics: `sums` with the batch's, and what goes on to the next.
        """
        step_key = jax.random.fold_in(state.key, state.step)
        places = self._places(_count(shown))
        params, stats = self.trained(state)
        params, stats, alphas = vary((params, stats, state.alphas))
        scores, counts, carried = self.model.evaluate(
            params, stats, alphas, (step_key, index, places), shown, carried
        )
        own = {name: (values * counts).sum() for name, values in scores.items()}
        own["count"] = counts.sum() + jnp.zeros_like(own["loss"])
        sums = jax.tree.map(jnp.add, sums, jax.lax.psum(own, "data"))
        return {"sums": sums, "carried": carried}


def _count(batch):
    return len(jax.tree.leaves(batch)[0])


def _parts(tree, size):
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), tree)


def where(keep, new, old):
    """Returns the new tree where `keep` is true, else the old one."""
    return jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, old)
