"""What a step differentiates: a network, what it is fed in training, its loss, its scores.

Place: layer 3. `seedwork` takes one of these; a model knows neither devices nor steps. Both have
the same methods; what a model has no use for it passes by.

Letters: N batch, K classes.
"""

from darts_dist import losses
from darts_dist.methods import PRESETS
from darts_dist.methods.relaxation import RELAXATIONS
from darts_dist.nets.drop_path import draw_factors
from darts_dist.spaces import cnn

TOP = 5  # of how many largest logits the label may be one


class SearchModel:
    """The network over all candidates, under the mixture weights of its alphas.

    layout: a name of `nets.layout.LAYOUTS`; None for the fastest on the default backend.
    """

    score_names = ("loss", "right")

    def __init__(self, config, classes, layout=None):
        self.config = config
        self.augments_evaluation = config.data.evaluate_augmented
        self.init, self.apply = cnn.build(config, classes, layout)
        self.relax = RELAXATIONS[PRESETS[config.method.preset].relaxation]

    def draw_alphas(self, key):
        """Returns the first alphas, f[E, K] by cell."""
        return cnn.draw_alphas(key, self.config)

    def feed(self, key, places, images, strength):
        """Returns what `outputs` takes in training of augmented images: the images."""
        del key, places, strength
        return images

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


class TrainModel:
    """The network of one genotype, with drop-path, auxiliary head and label smoothing in training.

    config: a `TrainConfig`.  genotype: a `CnnGenotype`.
    """

    score_names = ("loss", "right", "among")
    augments_evaluation = False

    def __init__(self, config, genotype, classes, layout=None):
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
