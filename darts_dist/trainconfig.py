"""The config of training a network of one genotype: its knobs, and the rules between them.

Tables that a search has too are those of `knobs`; reading and writing are `config`'s.
"""

import contextlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from darts_dist import config as configs
from darts_dist.config import Config, TextConfig
from darts_dist.errors import ConfigError, InputError
from darts_dist.knobs import (
    BatchNorm,
    Checkpoint,
    Cluster,
    Compile,
    DataSource,
    Debug,
    Evaluation,
    Log,
    Mesh,
    NameOfRun,
    Positive,
    Precision,
    Seeds,
    Share,
    Table,
    Weights,
    about,
)
from darts_dist.rules import (
    STORED,
    auxiliary_px,
    check_auxiliary,
    check_batch,
    check_pictures,
    check_rates,
)
from darts_dist.schema import literal
from darts_dist.textknobs import (
    FixedTextNetwork,
    TextTrainData,
    TextTrainEvaluation,
    TextTrainRegularisation,
    TextTrainSchedule,
    TextTrainSpace,
    TextTrainWeights,
)


class TrainSpace(Table, frozen=True, kw_only=True):
    """what the genotype is of"""

    kind: Annotated[Literal["cnn"], about("cnn: cells of an image network")] = "cnn"


class FixedNetwork(Table, frozen=True, kw_only=True):
    """the network of one genotype"""

    channels: Annotated[int, about("width of the first cell", ge=1)] = 36
    layers: Annotated[int, about("cells; two, at 1/3 and 2/3 of the depth, reduce", ge=1)] = 20
    in_channels: Annotated[int, about("channels of a picture", ge=1)] = 3
    image_px: Annotated[int, about("height and width of a picture; even", ge=2)] = 32
    stem: Annotated[
        Literal["cifar", "imagenet"], about("cifar: full size; imagenet: 8 times smaller")
    ] = "cifar"
    classes: Annotated[int, about("classes to tell apart; 0: those of the data", ge=0)] = 0
    init: Annotated[
        Literal["original", "modern"], about("initial weights: of PyTorch 0.3, or of today")
    ] = "original"
    original: Annotated[
        bool, about("the original's head: imagenet pools 7x7 pixels, not all there are")
    ] = False
    remat: Annotated[bool, about("compute cells twice to save memory")] = False


class TrainData(DataSource, frozen=True, kw_only=True):
    """where the pictures come from, and what is done to them"""

    global_batch: Annotated[int, about("pictures in a step, over all devices", ge=1)] = 96
    accumulate: Annotated[
        int, about("parts of a device's pictures, one after the other, to save memory", ge=1)
    ] = 1
    train_fraction: Annotated[
        float,
        about("share that trains; the rest scores. 1: all, and the test set scores", gt=0, le=1),
    ] = 1.0
    split: Annotated[
        Literal["index", "shuffled"], about("parts by position, or after one fixed shuffle")
    ] = "index"
    cutout_px: Annotated[int, about("side of the square that is blanked; 0: none", ge=0)] = 16


class TrainWeights(Weights, frozen=True, kw_only=True):
    """SGD with momentum on the weights"""

    learning_rate_min: Annotated[float, about("at the end of cosine", ge=0)] = 0.0
    schedule: Annotated[
        Literal["cosine", "step"], about("of the learning rate over the epochs")
    ] = "cosine"
    decay: Annotated[Positive, about("factor of step, every `period` epochs")] = 0.97
    period: Annotated[int, about("epochs between two decays of step", ge=1)] = 1
    warmup_epochs: Annotated[int, about("epochs of rising learning rate at the start", ge=0)] = 0
    average: Annotated[
        Share, about("share that a moving average of the weights keeps a step; 0: none is kept")
    ] = 0.0


class Regularisation(Table, frozen=True, kw_only=True):
    """what is done against overfitting"""

    drop_path: Annotated[
        Share, about("probability of leaving a path out, rising to this at the end")
    ] = 0.2
    auxiliary_weight: Annotated[
        float, about("weight of the auxiliary head's loss; 0: no such head", ge=0)
    ] = 0.4
    label_smoothing: Annotated[Share, about("share of the target spread over all classes")] = 0.0


class TrainSchedule(Table, frozen=True, kw_only=True):
    """how long"""

    epochs: Annotated[int, about("epochs", ge=1)] = 600
    steps_per_epoch: Annotated[int, about("steps; 0: once over the pictures", ge=0)] = 0


class TrainConfig(Table, frozen=True, kw_only=True):
    """All knobs of training a network of one genotype; made whole and checked, or not at all."""

    name: NameOfRun = "train"
    genotype: Annotated[str, about("published name, file, or folder of a search run")] = ""
    space: TrainSpace = TrainSpace()
    network: FixedNetwork = FixedNetwork()
    data: TrainData = TrainData()
    seeds: Seeds = Seeds()
    mesh: Mesh = Mesh()
    batch_norm: BatchNorm = BatchNorm()
    precision: Precision = Precision()
    weights: TrainWeights = TrainWeights()
    regularisation: Regularisation = Regularisation()
    schedule: TrainSchedule = TrainSchedule()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    cluster: Cluster = Cluster()
    compile: Compile = Compile()
    debug: Debug = Debug()

    def __post_init__(self):
        """Raises a ConfigError for the first rule between knobs that does not hold."""
        check_pictures(self.network, self.data)
        check_rates(self.weights)
        check_batch(self)


class TextTrainConfig(Table, frozen=True, kw_only=True):
    """All knobs of training a recurrent cell; made whole and checked, or not at all."""

    name: NameOfRun = "train"
    genotype: Annotated[str, about("published name, file, or folder of a search run")] = ""
    space: TextTrainSpace = TextTrainSpace()
    network: FixedTextNetwork = FixedTextNetwork()
    data: TextTrainData = TextTrainData()
    seeds: Seeds = Seeds()
    mesh: Mesh = Mesh()
    precision: Precision = Precision()
    weights: TextTrainWeights = TextTrainWeights()
    regularisation: TextTrainRegularisation = TextTrainRegularisation()
    schedule: TextTrainSchedule = TextTrainSchedule()
    evaluation: TextTrainEvaluation = TextTrainEvaluation()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    cluster: Cluster = Cluster()
    compile: Compile = Compile()
    debug: Debug = Debug()

    def __post_init__(self):
        """Raises a ConfigError for the first rule between knobs that does not hold."""
        check_batch(self)

    @property
    def batch_norm(self) -> BatchNorm:
        """What a fixed cell has no use for: it has no norms."""
        return BatchNorm()


TRAININGS: dict[str, type[Table]] = {"cnn": TrainConfig, "rnn": TextTrainConfig}
"""What the config of a training is, by space.kind."""

PictureConfig = Config | TrainConfig
AnyConfig = PictureConfig | TextConfig | TextTrainConfig


def load(path: str | None, overrides: Sequence[str] = ()) -> Any:
    """Returns the config of a TOML file (None: the packaged one); see `config.load`."""
    return configs.load_as(TRAININGS, path, overrides, packaged="train_sample")


def of_run(run: str, overrides: Sequence[str] = ()) -> Any:
    """Returns the config of a train run, with overrides; InputError for a folder that is none."""
    path = configs.place(run) / "config.toml"
    if not path.exists():
        raise InputError(f"{run} is no run of train: it has no config.toml")
    try:  # without the overrides, whose errors are their own
        configs.load_as(TRAININGS, str(path), packaged="")
    except ConfigError as error:
        found = str(error)
        with contextlib.suppress(ConfigError):
            configs.load(str(path))
            found = "it is one of search; select trains its cells"
        raise ConfigError(f"{run} is no run of train: {found}") from None
    return configs.load_as(TRAININGS, str(path), overrides, packaged="")


class Selection(Table, frozen=True, kw_only=True):
    """which cells are trained and compared"""

    random_cells: Annotated[
        int, about("cells drawn at random, trained and scored beside those found", ge=0)
    ] = 1
    groups: Annotated[
        int,
        about(
            "groups of devices, each with trainings of its own; 0: as many as there are cells and "
            "devices; 1: all devices train one cell after the other",
            ge=0,
        ),
    ] = 0


class SelectConfig(TrainConfig, frozen=True, kw_only=True):
    """All knobs of selecting a search's best cell: those of training, for each cell, and more."""

    selection: Selection = Selection()


class TextSelectConfig(TextTrainConfig, frozen=True, kw_only=True):
    """All knobs of selecting a search's best recurrent cell."""

    selection: Selection = Selection()


SELECTIONS: dict[str, type[Table]] = {"cnn": SelectConfig, "rnn": TextSelectConfig}
"""What the config of a selection is, by space.kind."""

OF_THE_SEARCH = {
    "cnn": {
        "data": (
            *("kind", "path", "broken", "train_limit", "train_fraction", "split", "mean", "std"),
            *("crop_area_min", "colour_jitter", "hue_jitter"),
        ),
        "network": ("in_channels", "image_px", "stem", "classes"),
    },
    "rnn": {"data": ("kind", "path", "new_words")},
}
SELECTION_EPOCHS = {"cnn": 100, "rnn": 300}  # arXiv 1806.09055, section 3.1


def of_search(run: str, overrides: Sequence[str] = ()) -> Any:
    """Returns the config of selecting among the cells of a search run, with overrides.

    Raises InputError for a folder that is no search run.
    """
    path = configs.place(run) / "config.toml"
    if not path.exists():
        raise InputError(f"{run} is no search run: it has no config.toml")
    try:
        search = configs.load(str(path))
    except ConfigError as error:
        found = str(error)
        with contextlib.suppress(ConfigError):
            configs.load_as(TRAININGS, str(path), packaged="")
            found = "it is one of train; evaluate scores it"
        raise ConfigError(f"{run} is no search run: {found}") from None
    return after_search(search, run, overrides)


def after_search(search: Config | TextConfig, run: str, overrides: Sequence[str] = ()) -> Any:
    """Returns the config of selecting among the cells of a search with this config.

    Pictures or texts, their parts, sizes and devices are the search's; the schedule is the paper's,
    100 epochs for pictures, 300 for texts; pictures on disk get no cutout, maps of one pixel no
    auxiliary head.  run: names it in errors.
    """
    kind = search.space.kind
    same = {
        **OF_THE_SEARCH[kind],
        "space": ("kind",),
        "cluster": Cluster.__struct_fields__,
        "compile": Compile.__struct_fields__,
        "precision": Precision.__struct_fields__,
    }
    given = [
        f"{table}.{key}={literal(getattr(getattr(search, table), key))}"
        for table, keys in same.items()
        for key in keys
    ]
    given.append(f"schedule.epochs={SELECTION_EPOCHS[kind]}")
    if search.data.kind in STORED:
        given.append("data.cutout_px=0")
    layers = FixedNetwork().layers
    pictures = search.network if isinstance(search, Config) else None
    if pictures and auxiliary_px(pictures.stem, pictures.image_px, layers) < 2:
        given.append("regularisation.auxiliary_weight=0")
    made = configs.parse_as(
        SELECTIONS[kind], "", run, f"select-{search.name}", (*given, *overrides)
    )
    if isinstance(made, TrainConfig):
        check_auxiliary(made.network, made.regularisation.auxiliary_weight)
    return made


def one_training(config: SelectConfig | TextSelectConfig, name: str, genotype: str) -> Any:
    """Returns the config of training one cell of a selection; genotype: as JSON."""
    struct = TRAININGS[config.space.kind]
    shared = {key: getattr(config, key) for key in struct.__struct_fields__}
    return struct(**{**shared, "name": name, "genotype": genotype})
