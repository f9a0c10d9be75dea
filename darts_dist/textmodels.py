"""What a step on texts differentiates: a language model over windows of words.

Place: layer 3, beside `models`, whose methods it has. A window comes with the hidden state before
it, and gives the one after it.

Letters: N batch (columns), T words of a window, V words, H width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist import losses
from darts_dist.methods import PRESETS
from darts_dist.methods.relaxation import RELAXATIONS
from darts_dist.models import Shown
from darts_dist.nets import dropout
from darts_dist.programs import SEED
from darts_dist.seedwork import DTYPES, STREAMS
from darts_dist.spaces import rnn


class LanguageModel:
    """What both kinds share. A fed window is (tokens int[N, T], hidden f[N, H], length int[N],
    words of a key u32[N, 2], places int[N]); lengths and keys are the same for all its columns.

    config: of a search or training of texts.  words: V.  streams: whose hidden states are carried.
    """

    score_names, total_names = ("loss",), ("loss", "count")
    apply: Callable  # of `spaces.rnn`
    init: Callable
    batch_scores = False  # whether the norm goes by batch statistics where words are scored
    rates = SEED  # each seed's learning rate is scaled by the length of its own window
    penalises = True

    def __init__(self, config, words, streams):
        self.config, self.words, self.streams = config, words, streams
        self.carries = (config.network.channels,)
        self.compute = DTYPES[config.precision.compute]
        self.real = jnp.promote_types(self.compute, jnp.float32)
        knobs = config.regularisation
        self.activation, self.temporal = knobs.activation, knobs.temporal
        self.dropout = {name: getattr(knobs, f"dropout_{name}") for name in dropout.MASKS}
        self.synced = config.batch_norm.sync == "batch"

    def shapes(self, sizes):
        """Returns `Shown`; sizes: (lengths T that windows of "train" are padded to, columns of each
        text that is scored).
        """
        lengths, scored = sizes

        def arrays(size, **more):
            words = jax.ShapeDtypeStruct((size,), jnp.int32)
            length = jax.ShapeDtypeStruct((), jnp.int32)
            return {"tokens": words, "targets": words, "length": length, **more}

        starts, window = jax.ShapeDtypeStruct((), bool), self.config.data.window
        steps = [
            {"train": arrays(size, starts=starts), "valid": arrays(window, starts=starts)}
            for size in lengths
        ]
        return Shown(steps, [(count, arrays(window, mask=starts)) for count in scored])

    def prepare(self, step_key, stream, places, shown, hidden, strength):
        """Returns (fed, targets int[N, T]); where a text begins anew, nothing is carried over."""
        del strength
        hidden = jnp.where(shown["starts"][:, None], jnp.zeros((), hidden.dtype), hidden)
        key = jax.random.key_data(jax.random.fold_in(step_key, STREAMS[stream]))
        keys = jnp.broadcast_to(key, (len(places), *key.shape))
        return (shown["tokens"], hidden, shown["length"], keys, places), shown["targets"]

    def outputs(self, params, stats, alphas, fed, *, train):
        """Returns ((`language.Outputs`, length), moved statistics); train: with dropout."""
        tokens, hidden, length, keys, places = fed
        length, masks = length[0], None
        if train:
            if self.synced:  # the statistics, moved as often, are then the same on all replicas
                length = jax.lax.pmax(length, "data")
            masks = dropout.draw_masks(
                jax.random.wrap_key_data(keys[0]),
                places,
                self.dropout,
                words=self.words,
                width=self.carries[0],
                dtype=self.real,
            )
        weights = self.weights(alphas)
        out, moved = self.apply(
            params,
            stats,
            tokens.T,
            hidden,
            weights,
            masks,
            length,
            train=train or self.batch_scores,
        )
        return (out, length), moved

    def losses(self, outputs, targets):
        """Returns each column's mean loss of a word, f[N]."""
        out, length = outputs
        return losses.sequence_cross_entropy(out.logits, targets.T, length)

    def penalties(self, outputs):
        """Returns what the step of the weights adds to each column's loss, f[N]."""
        out, length = outputs
        both = self.activation * losses.activation_penalty(out.dropped, length)
        return both + self.temporal * losses.temporal_penalty(out.raw, length)

    def metrics(self, outputs, targets, loss):
        """Returns what a step tells, by name; words: of a column."""
        del targets
        return {"loss": loss, "words": outputs[1].astype(loss.dtype)}

    def carried(self, outputs):
        """Returns the hidden state after the window, f[N, H]."""
        return outputs[0].hidden

    @staticmethod
    def totals(metrics, count):
        """Returns what a step of `count` columns adds to an epoch's sums."""
        words = metrics["words"] * count
        return {"loss": metrics["loss"] * words, "count": words}

    def evaluate(self, params, stats, alphas, drawn, shown, carried):
        """Returns (mean losses f[N] by name, how many words each is of f[N], carried) of a window.

        shown: columns without a word of the text have mask false.
        """
        del drawn
        length, hidden = shown["length"], carried["evaluation"]
        fed = shown["tokens"], hidden, length, None, None
        outputs, _ = self.outputs(params, stats, alphas, fed, train=False)
        values = self.losses(outputs, shown["targets"])
        counts = jnp.where(shown["mask"], length, 0).astype(values.dtype)
        return {"loss": values}, counts, {"evaluation": outputs[0].hidden}

    def weights(self, alphas):
        """Returns the weights of the search cell's operations, None for a fixed cell."""
        del alphas
        return None

    def draw_alphas(self, key):
        """Returns the first alphas: none for a fixed cell."""
        del key
        return {}


class LanguageSearchModel(LanguageModel):
    """The language model over all candidates, under the mixture weights of its alphas."""

    def __init__(self, config, words):
        super().__init__(config, words, ("train", "valid"))
        self.batch_scores = config.evaluation.statistics == "batch"
        self.init, self.apply = rnn.build(
            words=words,
            width=config.network.channels,
            nodes=config.network.nodes,
            operations=config.space.operations,
            sync=self.synced,
            remat=config.network.remat,
            compute=self.compute,
        )
        self.weights = RELAXATIONS[PRESETS[config.method.preset].relaxation]

    def draw_alphas(self, key):
        """Returns the first alphas, {"recurrent": f[E, K]}."""
        return rnn.draw_alphas(
            key,
            nodes=self.config.network.nodes,
            operations=self.config.space.operations,
            scale=self.config.alphas.init_scale,
            dtype=self.real,
        )


class LanguageTrainModel(LanguageModel):
    """The language model over one genotype; genotype: an `RnnGenotype`."""

    def __init__(self, config, genotype, words):
        super().__init__(config, words, ("train",))
        self.init, self.apply = rnn.build_network(
            genotype,
            words=words,
            width=config.network.channels,
            remat=config.network.remat,
            compute=self.compute,
        )


def padded(window, count):
    """Returns a window of an evaluation as the arrays that a model is shown, and its mask.

    window: of `windows.evaluation_windows`.  count: of columns; those beyond the window's own are
    filled with word 0 and do not count.
    """
    own = len(window["tokens"])
    fill = ((0, count - own), (0, 0))
    return {
        "tokens": np.pad(window["tokens"], fill),
        "targets": np.pad(window["targets"], fill),
        "length": np.full(count, window["length"], np.int32),
        "mask": np.arange(count) < own,
    }
