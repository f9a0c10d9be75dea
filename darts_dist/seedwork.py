"""What one seed does on one device: pure functions of its State and this device's part of a batch.

`steps` maps these over seeds and replicas and says in which order they run. Arguments come in the
order params, stats, alphas, batch, key. Averages over the replicas of a seed are taken here, along
the mesh axis "data".

Letters: N batch, E edges, K operations.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from darts_dist import optim
from darts_dist.data.augment import augment, normalise
from darts_dist.losses import is_right
from darts_dist.programs import vary, zeros

INIT, ALPHAS, STEPS = range(3)  # what a seed's key is folded with, once
STREAMS = {"train": 1, "valid": 2, "evaluation": 3}  # of augmentation, folded into the step's key
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that a search is; every leaf has a leading axis of seeds, sharded over "seed".

    step: int32.  alive: bool, false once a seed became non-finite; it then stays as it was before
    that step, its alphas apart where their own gradient was finite: they had moved by then.
    params, stats: trees of the network.  average: moving averages of both, or ().
    alphas: {"normal": f[E, K], "reduce": f[E, K]}, or {}.  weight_opt, alpha_opt: optimisers.
    totals: sums of the training loss, of correct answers and of examples since the epoch began.
    key: of augmentation.
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


class OneSeed:
    """The bodies of the programs that train weights.

    model: of `models`.  recipe: `Recipe` of the pictures.  epoch_steps: steps after which the
    totals start anew.  chunks: parts of a device's examples that go through one after the other.
    averaging: of the weights, the share that their moving average keeps a step; 0: none is kept.
    """

    def __init__(self, config, model, recipe, epoch_steps, chunks=1, averaging=0.0):
        self.config, self.model, self.recipe = config, model, recipe
        self.epoch_steps, self.chunks, self.averaging = epoch_steps, chunks, averaging
        self.compute = DTYPES[config.precision.compute]
        self.real = jnp.promote_types(self.compute, jnp.float32)
        sync = config.batch_norm.sync
        self.synced = sync == "batch"
        self.group = int(sync.partition(":")[2]) if sync.startswith("group:") else 0
        weights = config.weights
        self.sgd = optim.momentum_sgd(weights.momentum, weights.weight_decay, weights.clip_norm)

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
            totals={name: jnp.zeros((), self.real) for name in ("loss", "right", "count")},
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

    def _loss(self, params, stats, alphas, batch):
        fed, labels = batch
        outputs, moved = self._forward(params, stats, alphas, fed)
        loss = self.model.losses(outputs, labels).mean()
        right = is_right(self.model.logits(outputs), labels)
        return loss, (moved, {"loss": loss, "accuracy": 100 * right.mean()})

    def _mean(self, moved, *trees):
        """Averages over the replicas: one all-reduce for everything a pass returns."""
        if self.synced:  # the statistics are of the whole batch already
            return moved, *jax.lax.pmean(trees, "data")
        return jax.lax.pmean((moved, *trees), "data")

    def gradient(self, wrt):
        """Returns the body of one pass: gradients by `wrt`, statistics moved, metrics."""
        numbers = {"params": (0,), "alphas": (2,), "both": (0, 2)}[wrt]

        def body(params, stats, alphas, batch):
            params, alphas = vary((params, alphas))
            if not self.synced:
                stats = vary(stats)
            take = jax.grad(self._loss, numbers, has_aux=True)
            grads, (moved, metrics) = self._in_chunks(take, params, stats, alphas, batch)
            moved, grads, metrics = self._mean(moved, grads, metrics)
            named = dict(zip(numbers, grads, strict=True))
            return {
                "params": named.get(0),
                "alphas": named.get(2),
                "stats": moved,
                "metrics": metrics,
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
            grads, (moved, metrics) = take(params, stats, alphas, chunk)
            return (moved, jax.tree.map(jnp.add, sums, (grads, metrics))), None

        first = jax.tree.map(lambda x: x[0], chunks)
        shapes = jax.eval_shape(take, params, stats, alphas, first)
        (moved, sums), _ = jax.lax.scan(add, (stats, zeros((shapes[0], shapes[1][1]))), chunks)
        grads, metrics = jax.tree.map(lambda x: x / self.chunks, sums)
        return grads, (moved, metrics)

    def weight_step(self, state, stats, grads, metrics, rate):
        """Returns (state, metrics) after SGD; a seed that is or becomes non-finite stays."""
        norm = optax.tree.norm(grads)
        alive = state.alive & jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        params, opt = optim.descend(self.sgd, rate, grads, state.weight_opt, state.params)
        count = jnp.asarray(self.config.data.global_batch, self.real)
        sums = {
            "loss": metrics["loss"] * count,
            "right": metrics["accuracy"] * count / 100,
            "count": count,
        }
        starts = state.step % self.epoch_steps == 0
        totals = {name: jnp.where(starts, 0, state.totals[name]) + sums[name] for name in sums}
        keep = self.averaging
        average = jax.tree.map(
            lambda a, w: keep * a + (1 - keep) * w, state.average, (params, stats) if keep else ()
        )
        params, average, stats, opt, totals = where(
            alive,
            (params, average, stats, opt, totals),
            (state.params, state.average, state.stats, state.weight_opt, state.totals),
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
        )
        return state, {"alive": alive, "grad_norm": norm, **metrics}

    def _places(self, count):
        return jax.lax.axis_index("data") * count + jnp.arange(count)

    def prepare(self, step, pictures, key, strength):
        """Returns (fed, labels) by name of uint8 pictures by name: augmented, as the model is fed.

        strength: of what the model does against overfitting.
        """
        step_key = jax.random.fold_in(key, step)
        out = {}
        for name, own in pictures.items():
            images, labels = own["image"], own["label"]
            stream, places = STREAMS[name], self._places(len(images))
            augmented = jax.random.fold_in(step_key, stream)
            images = augment(augmented, places, images, self.recipe, self.compute)
            noise = jax.random.fold_in(step_key, len(STREAMS) + stream)
            out[name] = self.model.feed(noise, places, images, strength), labels
        return out

    def evaluate(self, state, sums, images, labels, mask, index):
        """Returns `sums` and those of one more batch that all seeds see, by running statistics."""
        if self.model.augments_evaluation:
            step_key = jax.random.fold_in(state.key, state.step)
            key = jax.random.fold_in(step_key, STREAMS["evaluation"])
            places = index * self.config.data.global_batch + self._places(len(images))
            images = augment(key, places, images, self.recipe, self.compute)
        else:
            images = normalise(images, self.recipe, self.compute)
        params, stats = state.average if self.averaging else (state.params, state.stats)
        params, stats, alphas = vary((params, stats, state.alphas))
        outputs, _ = self.model.outputs(params, stats, alphas, images, train=False)
        scores = self.model.scores(outputs, labels)
        shown = mask.astype(scores["loss"].dtype)
        own = {name: (values * shown).sum() for name, values in scores.items()}
        own["count"] = shown.sum() + jnp.zeros_like(own["loss"])
        return jax.tree.map(jnp.add, sums, jax.lax.psum(own, "data"))


def _parts(tree, size):
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), tree)


def where(keep, new, old):
    """Returns the new tree where `keep` is true, else the old one."""
    return jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, old)
