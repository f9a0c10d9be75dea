"""What a step differentiates: a network, what it is fed in training, its loss, its scores.

Place: layer 3; those of pictures, `textmodels` has those of texts. `seedwork` takes one of them; a
model knows neither devices nor steps. All have the same methods; what a model has no use for it
passes by.

Letters: N batch, K classes.
"""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from darts_dist import losses
from darts_dist.data.augment import Recipe, augment, normalise
from darts_dist.methods import PRESETS
from darts_dist.methods.relaxation import RELAXATIONS
from darts_dist.nets.drop_path import draw_factors
from darts_dist.programs import SCALAR
from darts_dist.seedwork import DTYPES, STREAMS
from darts_dist.spaces import cnn

TOP = 5  # of how many largest logits the label may be one


class Shown(NamedTuple):
    """Shapes of what a model is shown, without N: by stream and name for each kind of step, and
    (N or 0 for the config's, by name) for each kind of evaluation.
    """

    steps: list[dict[str, Any]]
    evaluations: list[tuple[int, dict[str, Any]]]


class PictureModel(abc.ABC):
    """What networks of pictures share.

    config: has `data.global_batch` and `precision`.  recipe: what is done to the pictures.
    """

    total_names = ("loss", "right", "count")
    augments_evaluation = False
    rates = SCALAR  # the learning rate of a step is the same for all seeds
    streams, carries = (), ()  # nothing is carried from step to step
    penalises = False  # nothing is added to the loss in the step of the weights alone

    def __init__(self, config, recipe: Recipe):
        self.recipe, self.batch = recipe, config.data.global_batch
        self.compute = DTYPES[config.precision.compute]

    def shapes(self, picture):
        """Returns `Shown` of uint8 pictures [H, W, C]."""
        image, label = jax.ShapeDtypeStruct(picture, jnp.uint8), jax.ShapeDtypeStruct((), jnp.int32)
        own = {"image": image, "label": label}
        mask = {"mask": jax.ShapeDtypeStruct((), bool)}
        return Shown([dict.fromkeys(STREAMS, own)], [(0, own | mask)])

    def prepare(self, step_key, stream, places, shown, hidden, strength):
        """Returns (fed, labels) of uint8 pictures and labels by name: augmented, as `outputs` has
        them.

        strength: of what the model does against overfitting.
        """
        del hidden
        images, labels = shown["image"], shown["label"]
        augmented = jax.random.fold_in(step_key, STREAMS[stream])
        images = augment(augmented, places, images, self.recipe, self.compute)
        noise = jax.random.fold_in(step_key, len(STREAMS) + STREAMS[stream])
        return self.feed(noise, places, images, strength), labels

    def feed(self, key, places, images, strength):
        """Returns what `outputs` takes in training of augmented images: the images."""
        del key, places, strength
        return images

    def metrics(self, outputs, labels, loss):
        """Returns what a step tells, by name."""
        right = losses.is_right(self.logits(outputs), labels)
        return {"loss": loss, "accuracy": 100 * right.mean()}

    def carried(self, outputs):
        """Returns what goes on to the next step: nothing."""
        del outputs
        return {}

    @staticmethod
    def totals(metrics, count):
        """Returns what a step of `count` examples adds to an epoch's sums."""
        return {
            "loss": metrics["loss"] * count,
            "right": metrics["accuracy"] * count / 100,
            "count": count,
        }

    def evaluate(self, params, stats, alphas, drawn, shown, carried):
        """Returns (scores f[N] by name, whether each counts f[N], nothing) of uint8 pictures.

        drawn: (key of the step, number of the batch, places in it).
        """
        images, labels = shown["image"], shown["label"]
        if self.augments_evaluation:
            step_key, index, places = drawn
            key = jax.random.fold_in(step_key, STREAMS["evaluation"])
            places = index * self.batch + places
            images = augment(key, places, images, self.recipe, self.compute)
        else:
            images = normalise(images, self.recipe, self.compute)
        outputs, _ = self.outputs(params, stats, alphas, images, train=False)
        scores = self.scores(outputs, labels)
        return scores, shown["mask"].astype(scores["loss"].dtype), carried

    @abc.abstractmethod
    def outputs(self, params, stats, alphas, fed, *, train) -> Any:
        """Returns (what the network puts out, moved statistics)."""

    @abc.abstractmethod
    def logits(self, outputs) -> Any:
        """Returns the logits of what the network puts out."""

    @abc.abstractmethod
    def scores(self, outputs, labels) -> Any:
        """Returns what is summed up in evaluation, f[N] by name."""


class SearchModel(PictureModel):
    """The network over all candidates, under the mixture weights of its alphas.

    layout: a name of `nets.layout.LAYOUTS`; None for the fastest on the default backend.
    """

    score_names = ("loss", "right")

    def __init__(self, config, classes, recipe, layout=None):
        super().__init__(config, recipe)
        self.config = config
        self.augments_evaluation = config.data.evaluate_augmented
        self.init, self.apply = cnn.build(config, classes, layout)
        self.relax = RELAXATIONS[PRESETS[config.method.preset].relaxation]

    def draw_alphas(self, key):
        """Returns the first alphas, f[E, K] by cell."""
        return cnn.draw_alphas(key, self.config)

    def outputs(self, params, stats, alphas, fed, *, train):
        """Returns (logits f[N, K], moved statistics)."""
        return self.apply(params, stats, fed, self.relax(alphas), train=train)

    def logits(self, outputs):
        """Returns the logits of what the network puts out."""
        return outputs

    def losses(self, outputs, labels):
        """Returns each example's loss in training, f[N]."""
        return losses.cross_entropy(outputs, labels)

    def scores(self, outputs, labels):
        """Returns what is summed up in evaluation, f[N] by name."""
        return {
            "loss": losses.cross_entropy(outputs, labels),
            "right": losses.is_right(outputs, labels),
        }


class TrainModel(PictureModel):
    """The network of one genotype, with drop-path, auxiliary head and label smoothing in training.

    config: a `TrainConfig`.  genotype: a `CnnGenotype`.
    """

    score_names = ("loss", "right", "among")

    def __init__(self, config, genotype, classes, recipe, layout=None):
        super().__init__(config, recipe)
        self.regularisation = config.regularisation
        self.init, self.apply = cnn.build_network(config, genotype, classes, layout)
        self.paths = cnn.count_paths(config, genotype) if config.regularisation.drop_path else 0

    def draw_alphas(self, key):
        """Returns no alphas."""
        del key
        return {}

    def feed(self, key, places, images, strength):
        """Returns (images, factors of drop-path f[N, P] or None); strength: its probability."""
        factors = draw_factors(key, places, self.paths, strength) if self.paths else None
        return images, factors

    def outputs(self, params, stats, alphas, fed, *, train):
        """Returns ((logits f[N, K], logits of the auxiliary head or None), moved statistics).

        fed: of `feed` in training, images alone in evaluation.
        """
        del alphas
        if train:
            return self.apply(params, stats, *fed, train=True)
        return self.apply(params, stats, fed, train=False)

    def logits(self, outputs):
        """Returns the logits of what the network puts out."""
        return outputs[0]

    def losses(self, outputs, labels):
        """Returns each example's loss in training, f[N], the auxiliary head's included."""
        settings = self.regularisation
        return losses.with_auxiliary(
            outputs, labels, settings.auxiliary_weight, settings.label_smoothing
        )

    def scores(self, outputs, labels):
        """Returns what is summed up in evaluation, f[N] by name; of the logits alone."""
        logits, _ = outputs
        return {
            "loss": losses.cross_entropy(logits, labels),
            "right": losses.is_right(logits, labels),
            "among": losses.is_among(logits, labels, TOP),
        }
