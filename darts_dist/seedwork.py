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
from darts_dist.losses import cross_entropy, is_right
from darts_dist.methods import PRESETS
from darts_dist.methods.relaxation import RELAXATIONS
from darts_dist.programs import vary
from darts_dist.spaces import cnn

INIT, ALPHAS, STEPS = range(3)  # what a seed's key is folded with, once
TRAIN, VALID, EVALUATION = range(1, 4)  # streams of augmentation, folded into the step's key
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that a search is; every leaf has a leading axis of seeds, sharded over "seed".

    step: int32.  alive: bool, false once a seed became non-finite; it then stays as it was before
    that step, its alphas apart where their own gradient was finite: they had moved by then.
    params, stats: trees of the network.  alphas: {"normal": f[E, K], "reduce": f[E, K]}.
    weight_opt, alpha_opt: optimisers.  totals: sums of the training loss, of correct answers and
    of examples since the epoch began.  key: of augmentation.
    """

    step: Any
    alive: Any
    params: Any
    stats: Any
    alphas: Any
    weight_opt: Any
    alpha_opt: Any
    totals: Any
    key: Any


class OneSeed:
    """The bodies of a search's programs.

    network: (init, apply) of `nets.pure`.  recipe: `Recipe` of the pictures.
    epoch_steps: steps after which the totals start anew.
    """

    def __init__(self, config, network, recipe, epoch_steps):
        self.config, self.recipe, self.epoch_steps = config, recipe, epoch_steps
        self.init_network, self.apply = network
        self.compute = DTYPES[config.precision.compute]
        self.real = jnp.promote_types(self.compute, jnp.float32)
        self.relax = RELAXATIONS[PRESETS[config.method.preset].relaxation]
        sync = config.batch_norm.sync
        self.synced = sync == "batch"
        self.group = int(sync.partition(":")[2]) if sync.startswith("group:") else 0
        weights, alphas = config.weights, config.alphas
        self.sgd = optim.momentum_sgd(weights.momentum, weights.weight_decay, weights.clip_norm)
        self.adam = optim.adam(
            alphas.betas, alphas.epsilon, alphas.weight_decay, alphas.epsilon_placement
        )

    def init(self, seed):
        """Returns the first State of a seed number."""
        key = jax.random.key(seed)
        params, stats = self.init_network(jax.random.fold_in(key, INIT))
        alphas = cnn.draw_alphas(jax.random.fold_in(key, ALPHAS), self.config)
        return State(
            step=jnp.zeros((), jnp.int32),
            alive=jnp.ones((), bool),
            params=params,
            stats=stats,
            alphas=alphas,
            weight_opt=self.sgd.init(params),
            alpha_opt=self.adam.init(alphas),
            totals={name: jnp.zeros((), self.real) for name in ("loss", "right", "count")},
            key=jax.random.fold_in(key, STEPS),
        )

    def _forward(self, params, stats, alphas, images, train):
        weights = self.relax(alphas)
        if not (train and self.group):
            return self.apply(params, stats, images, weights, train=train)
        groups = images.reshape(-1, self.group, *images.shape[1:])
        run = jax.vmap(lambda own: self.apply(params, stats, own, weights, train=True))
        logits, moved = run(groups)
        return logits.reshape(-1, logits.shape[-1]), jax.tree.map(lambda s: s.mean(0), moved)

    def _loss(self, params, stats, alphas, batch):
        images, labels = batch
        logits, moved = self._forward(params, stats, alphas, images, train=True)
        loss = cross_entropy(logits, labels).mean()
        return loss, (moved, {"loss": loss, "accuracy": 100 * is_right(logits, labels).mean()})

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
            grads, (moved, metrics) = take(params, stats, alphas, batch)
            moved, grads, metrics = self._mean(moved, grads, metrics)
            named = dict(zip(numbers, grads, strict=True))
            return {
                "params": named.get(0),
                "alphas": named.get(2),
                "stats": moved,
                "metrics": metrics,
            }

        return body

    def product(self, params, stats, alphas, vector, batch):
        """Returns d/d alphas of the loss's derivative along `vector`, and moved statistics."""
        params, alphas, vector = vary((params, alphas, vector))
        if not self.synced:
            stats = vary(stats)

        def along(alphas):
            def loss(params):
                return self._loss(params, stats, alphas, batch)

            _, derivative, (moved, _) = jax.jvp(loss, (params,), (vector,), has_aux=True)
            return derivative, moved

        product, moved = jax.grad(along, has_aux=True)(alphas)
        moved, product = self._mean(moved, product)
        return product, moved

    def lookahead(self, params, momentum, grads, rate):
        """Returns the weights one step of SGD on, without clipping."""
        mu, decay = self.config.weights.momentum, self.config.weights.weight_decay

        def move(w, m, g):
            return w - rate.astype(w.dtype) * (mu * m + g + decay * w)

        return jax.tree.map(move, params, momentum, grads)

    def _radius(self, vector):
        return self.config.method.radius / optax.tree.norm(vector)

    def perturb(self, params, vector):
        """Returns the weights moved along `vector` by the method's radius, and against it."""
        radius = self._radius(vector)

        def moved(sign):
            scale = sign * radius
            return jax.tree.map(lambda w, v: w + scale.astype(w.dtype) * v, params, vector)

        return moved(1), moved(-1)

    def quotient(self, plus, minus, vector):
        """Returns the central difference of two alpha gradients."""
        radius = self._radius(vector)
        return jax.tree.map(lambda p, m: (p - m) / (2 * radius), plus, minus)

    def alpha_step(self, alive, alphas, opt, direct, implicit, rate):
        """Returns (alive, alphas, optimiser, norm and gradients) after Adam; a dead seed stays."""
        grads = direct
        if implicit is not None:
            grads = jax.tree.map(lambda d, i: d - rate.astype(d.dtype) * i, direct, implicit)
        norm = optax.tree.norm(grads)
        alive = alive & jnp.isfinite(norm)
        moved = optim.descend(self.adam, self.config.alphas.learning_rate, grads, opt, alphas)
        alphas, opt = _where(alive, moved, (alphas, opt))
        return alive, alphas, opt, {"alpha_grad_norm": norm, "alpha_grads": grads}

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
        params, stats, opt, totals = _where(
            alive,
            (params, stats, opt, totals),
            (state.params, state.stats, state.weight_opt, state.totals),
        )
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            alive=alive,
            params=params,
            stats=stats,
            weight_opt=opt,
            totals=totals,
        )
        return state, {"alive": alive, "grad_norm": norm, **metrics}

    def _places(self, count):
        return jax.lax.axis_index("data") * count + jnp.arange(count)

    def prepare(self, where, pictures, key):
        """Returns {"train": (images, labels), "valid": ...} of uint8 pictures, augmented."""
        step_key = jax.random.fold_in(key, where)
        out = {}
        for stream, name in ((TRAIN, "train"), (VALID, "valid")):
            images, labels = pictures[name]["image"], pictures[name]["label"]
            own = jax.random.fold_in(step_key, stream)
            images = augment(own, self._places(len(images)), images, self.recipe, self.compute)
            out[name] = (images, labels)
        return out

    def evaluate(self, state, sums, images, labels, mask, index):
        """Returns `sums` and those of one more batch that all seeds see, by running statistics."""
        if self.config.data.evaluate_augmented:
            key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), EVALUATION)
            places = index * self.config.data.global_batch + self._places(len(images))
            images = augment(key, places, images, self.recipe, self.compute)
        else:
            images = normalise(images, self.recipe, self.compute)
        params, stats, alphas = vary((state.params, state.stats, state.alphas))
        logits, _ = self._forward(params, stats, alphas, images, train=False)
        shown = mask.astype(logits.dtype)
        own = {
            "loss": (cross_entropy(logits, labels) * shown).sum(),
            "right": (is_right(logits, labels) * shown).sum(),
            "count": shown.sum() + jnp.zeros_like(logits[0, 0]),
        }
        return jax.tree.map(jnp.add, sums, jax.lax.psum(own, "data"))


def _where(keep, new, old):
    return jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, old)
