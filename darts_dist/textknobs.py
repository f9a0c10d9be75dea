"""Knobs of searching and training recurrent cells on texts, where they differ from `knobs`.

Place: layer 0; `config` and `trainconfig` join them. The defaults are the original's on Penn
Treebank.
"""

from typing import Annotated, Literal

from msgspec import Meta

from darts_dist.knobs import Alphas, Method, Positive, Share, Table, about

Activation = Literal["none", "tanh", "relu", "sigmoid", "identity"]
Length = Annotated[int, Meta(ge=1)]


class TextSpace(Table, frozen=True, kw_only=True):
    """what is searched"""

    kind: Annotated[Literal["rnn"], about("rnn: cells of a language model")] = "rnn"
    operations: Annotated[
        tuple[Activation, ...],
        about("candidates on each edge, in the order of the alphas' columns"),
    ] = ("none", "tanh", "relu", "sigmoid", "identity")


class TextTrainSpace(Table, frozen=True, kw_only=True):
    """what the genotype is of"""

    kind: Annotated[Literal["rnn"], about("rnn: cells of a language model")] = "rnn"


class TextNetwork(Table, frozen=True, kw_only=True):
    """the language model over all candidates"""

    channels: Annotated[int, about("width of embeddings, states and outputs", ge=1)] = 300
    nodes: Annotated[int, about("intermediate nodes of a cell", ge=1)] = 8
    remat: Annotated[bool, about("compute products of the cell twice to save memory")] = False


class FixedTextNetwork(Table, frozen=True, kw_only=True):
    """the language model over one genotype"""

    channels: Annotated[int, about("width of embeddings, states and outputs", ge=1)] = 850
    remat: Annotated[bool, about("compute products of the cell twice to save memory")] = False


class TextData(Table, frozen=True, kw_only=True):
    """where the texts come from, and how they are cut"""

    kind: Annotated[
        Literal["sample", "text"],
        about("sample: ships with the package; text: train.txt, valid.txt and test.txt"),
    ] = "sample"
    path: Annotated[str, about("folder of the three texts; not for sample")] = ""
    new_words: Annotated[
        Literal["add", "unknown", "stop"],
        about("words that train.txt lacks: numbered too, taken for <unk>, or an error"),
    ] = "add"
    global_batch: Annotated[
        int, about("columns that the text is cut into, over all devices", ge=1)
    ] = 256
    window: Annotated[int, about("words of a column in a step", ge=1)] = 35
    threads: Annotated[int, about("threads that read ahead", ge=0)] = 2


class TextTrainData(TextData, frozen=True, kw_only=True):
    """where the texts come from, and how they are cut"""

    global_batch: Annotated[
        int, about("columns that the text is cut into, over all devices", ge=1)
    ] = 64
    accumulate: Annotated[
        int, about("parts of a device's columns, one after the other, to save memory", ge=1)
    ] = 1
    excess: Annotated[int, about("how much longer than `window` a window may be", ge=0)] = 20
    sizes: Annotated[
        tuple[Length, ...],
        about(
            "lengths below window + excess that windows are padded to too, each compiled; []: a "
            "seed's numbers are then the same to the last bit, whichever seeds run beside it"
        ),
    ] = (40,)


class TextMethod(Method, frozen=True, kw_only=True):
    """how alphas are learned"""

    clip_factor: Annotated[
        Literal["", "capped", "uncapped"],
        about('of the second-order term: at most 1, or as the original\'s; "": by the preset'),
    ] = ""
    virtual_words: Annotated[
        Literal["", "step", "keep"],
        about('does the virtual step move the matrix of words? "": by the preset'),
    ] = ""
    masks: Annotated[
        Literal["", "shared", "fresh"],
        about('dropout of the passes of one alpha step: the same or not; "": by the preset'),
    ] = ""


class TextWeights(Table, frozen=True, kw_only=True):
    """SGD on the weights"""

    learning_rate: Annotated[float, about("constant, for a window of full length", ge=0)] = 20.0
    momentum: Annotated[Share, about("share of the last direction that is kept")] = 0.0
    weight_decay: Annotated[float, about("added to the gradient, times the weight", ge=0)] = 5e-7
    clip_norm: Annotated[float, about("largest norm of the gradient", gt=0)] = 0.25


class TextTrainWeights(Table, frozen=True, kw_only=True):
    """SGD on the weights, averaged once it has come to a halt"""

    learning_rate: Annotated[float, about("constant, for a window of full length", ge=0)] = 20.0
    weight_decay: Annotated[float, about("added to the gradient, times the weight", ge=0)] = 8e-7
    clip_norm: Annotated[float, about("largest norm of the gradient", gt=0)] = 0.25
    patience: Annotated[
        int,
        about("evaluations that may be worse than one before them until averaging starts", ge=1),
    ] = 5
    average: Annotated[
        Literal["when_halted", "never", "always"], about("the weights that are scored")
    ] = "when_halted"
    rollbacks: Annotated[
        int,
        about("times that a seed which diverges goes back to its best weights; then it ends", ge=0),
    ] = 0
    rollback_rate: Annotated[
        Positive, about("factor of the learning rate from each such time on")
    ] = 0.5


class TextRegularisation(Table, frozen=True, kw_only=True):
    """what is done against overfitting"""

    dropout_output: Annotated[Share, about("probability, of the cell's outputs")] = 0.75
    dropout_hidden: Annotated[Share, about("of every state before a product of the cell")] = 0.25
    dropout_cell_input: Annotated[Share, about("of what enters the cell")] = 0.75
    dropout_input: Annotated[Share, about("of embedded words")] = 0.2
    dropout_embedding: Annotated[Share, about("of whole words")] = 0.0
    activation: Annotated[float, about("weight of the penalty on outputs", ge=0)] = 0.0
    temporal: Annotated[float, about("weight of the penalty on outputs' changes", ge=0)] = 1e-3


class TextTrainRegularisation(TextRegularisation, frozen=True, kw_only=True):
    """what is done against overfitting"""

    dropout_embedding: Annotated[Share, about("of whole words")] = 0.1


class TextAlphas(Alphas, frozen=True, kw_only=True):
    """Adam on the alphas"""

    learning_rate: Annotated[float, about("constant", ge=0)] = 3e-3
    betas: Annotated[tuple[Share, Share], about("decay of the two moments")] = (0.9, 0.999)


class TextSchedule(Table, frozen=True, kw_only=True):
    """how long"""

    epochs: Annotated[int, about("epochs", ge=1)] = 50
    steps_per_epoch: Annotated[
        int, about("steps; 0: about as many as once over the text take", ge=0)
    ] = 0


class TextTrainSchedule(TextSchedule, frozen=True, kw_only=True):
    """how long"""

    epochs: Annotated[int, about("epochs", ge=1)] = 8000


class TextEvaluation(Table, frozen=True, kw_only=True):
    """scoring by perplexity"""

    every_epochs: Annotated[int, about("epochs between evaluations", ge=1)] = 1
    batch: Annotated[int, about("columns of the text that is scored", ge=1)] = 10
    rows: Annotated[int, about("rows of it that are scored; 0: all", ge=0)] = 0
    mean: Annotated[
        Literal["exact", "original"],
        about("over the words predicted, or over one more a column, as published numbers are"),
    ] = "exact"


class TextSearchEvaluation(TextEvaluation, frozen=True, kw_only=True):
    """scoring by perplexity"""

    statistics: Annotated[
        Literal["running", "batch"],
        about(
            "of the norm: running ones, which mix all states of the cell, as the original's code "
            "does, or of the columns scored, as its paper does"
        ),
    ] = "running"


class TextTrainEvaluation(TextEvaluation, frozen=True, kw_only=True):
    """scoring by perplexity"""

    test_batch: Annotated[int, about("columns of the test text", ge=1)] = 1
