"""Every knob of a search, table by table, with its range and meaning; `config` joins them.

0 and "" stand for "automatic" where the meaning says so.
"""

from typing import Annotated, Any, Literal

import msgspec


def about(meaning: str, **ranges: Any) -> msgspec.Meta:
    """Returns the note of one knob: its meaning and, where it has one, its range."""
    return msgspec.Meta(description=meaning, **ranges)


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of knobs."""


Operation = Literal[
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
LARGEST_SEED = 2**31 - 1
NameOfRun = Annotated[
    str,
    about(
        "name of the run; the file's own where it sets none",
        pattern=r"^[^/]+$",
        extra={"wanted": "text without /"},
    ),
]
ThenSelect = Annotated[bool, about("then train the cells found and keep the best: verb select")]
SelectWords = Annotated[
    tuple[str, ...], about('what that verb is given: ["schedule.epochs=20", ...]')
]


class Space(Table, frozen=True, kw_only=True):
    """what is searched"""

    kind: Annotated[Literal["cnn"], about("cnn: cells of an image network")] = "cnn"
    operations: Annotated[
        tuple[Operation, ...], about("candidates on each edge, in the order of the alphas' columns")
    ] = (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )


class Network(Table, frozen=True, kw_only=True):
    """the network over all candidates"""

    channels: Annotated[int, about("width of the first cell", ge=1)] = 16
    layers: Annotated[int, about("cells; two, at 1/3 and 2/3 of the depth, reduce", ge=1)] = 8
    nodes: Annotated[int, about("intermediate nodes of a cell", ge=1)] = 4
    in_channels: Annotated[int, about("channels of a picture", ge=1)] = 3
    image_px: Annotated[int, about("height and width of a picture; even", ge=2)] = 32
    stem: Annotated[
        Literal["cifar", "imagenet"], about("cifar: full size; imagenet: 8 times smaller")
    ] = "cifar"
    classes: Annotated[int, about("classes to tell apart; 0: those of the data", ge=0)] = 0
    init: Annotated[
        Literal["original", "modern"], about("initial weights: of PyTorch 0.3, or of today")
    ] = "original"
    remat: Annotated[bool, about("compute cells twice to save memory")] = False


class DataSource(Table, frozen=True, kw_only=True):
    """where the pictures come from, and what is done to them"""

    kind: Annotated[
        Literal["sample", "cifar10", "cifar100", "image_folder", "imagenet", "array_record"],
        about(
            "sample: ships with the package; image_folder: a folder of pictures for each class, "
            "held in memory; imagenet: the same, or array_record, read from disk in each step"
        ),
    ] = "sample"
    path: Annotated[str, about("folder or .tar.gz of the data set; not for sample")] = ""
    broken: Annotated[
        Literal["stop", "skip"],
        about(
            "pictures of a folder or of array_record that cannot be read: stop and name them, or "
            "leave them out"
        ),
    ] = "stop"
    global_batch: Annotated[int, about("pictures in a step, over all devices", ge=1)] = 64
    train_limit: Annotated[int, about("use the first N training pictures; 0: all", ge=0)] = 0
    crop_padding_px: Annotated[
        int, about("zeros around before a random crop; not of imagenet and array_record", ge=0)
    ] = 4
    crop_area_min: Annotated[
        float,
        about(
            "smallest share of a picture that a random crop of imagenet or array_record keeps",
            gt=0,
            le=1,
        ),
    ] = 0.08
    flip: Annotated[bool, about("mirror half of the pictures")] = True
    colour_jitter: Annotated[
        float,
        about("how far factors of brightness, contrast and saturation are from 1", ge=0, le=1),
    ] = 0.0
    hue_jitter: Annotated[
        float, about("how far hues are turned, as a share of the circle", ge=0, le=0.5)
    ] = 0.0
    cutout_px: Annotated[int, about("side of the square that is blanked; 0: none", ge=0)] = 0
    mean: Annotated[
        tuple[float, ...], about("per channel, of pictures in 0..1; []: of the data set")
    ] = ()
    std: Annotated[
        tuple[Positive, ...], about("per channel, of pictures in 0..1; []: of the data set")
    ] = ()
    threads: Annotated[int, about("threads that read ahead", ge=0)] = 2


class Data(DataSource, frozen=True, kw_only=True):
    """where the pictures come from, and what is done to them"""

    train_fraction: Annotated[
        float, about("share that trains the weights; the rest trains the alphas", gt=0, lt=1)
    ] = 0.5
    split: Annotated[
        Literal["index", "shuffled"], about("halves by position, or after one fixed shuffle")
    ] = "index"
    evaluate_augmented: Annotated[
        bool, about("augment the pictures of evaluations too, as the original did")
    ] = False


class Seeds(Table, frozen=True, kw_only=True):
    """independent searches or trainings, side by side"""

    count: Annotated[int, about("number of them", ge=1)] = 1
    first: Annotated[int, about("seed of the first; the rest count up", ge=0, le=LARGEST_SEED)] = 0


class Mesh(Table, frozen=True, kw_only=True):
    """how devices are shared out"""

    seed: Annotated[int, about("groups of devices, each on its own seeds; 0: automatic", ge=0)] = 0
    data: Annotated[int, about("devices that share a batch; 0: automatic", ge=0)] = 0


class BatchNorm(Table, frozen=True, kw_only=True):
    """over what batch normalisation takes its statistics"""

    sync: Annotated[
        str,
        about(
            "batch: the global batch; state: a device's own part; group:N: N pictures",
            pattern=r"^(batch|state|group:[1-9][0-9]*)$",
            extra={"wanted": "batch | state | group:N"},
        ),
    ] = "state"


class Precision(Table, frozen=True, kw_only=True):
    """number formats"""

    compute: Annotated[
        Literal["float32", "bfloat16", "float64"], about("convolutions and contractions")
    ] = "float32"
    matmul: Annotated[
        Literal["float32", "tensorfloat32", "default"],
        about("products of float32 on accelerators: whole, with 10 bits, or as jax likes best"),
    ] = "float32"
    deterministic: Annotated[
        bool, about("GPU: kernels whose results never vary, slower; docs/determinism.md")
    ] = False


class Method(Table, frozen=True, kw_only=True):
    """how alphas are learned"""

    preset: Annotated[
        Literal["darts_second", "darts_first", "darts_original"],
        about("exact second order; first order; second order by differences, as the original"),
    ] = "darts_second"
    hypergradient: Annotated[
        Literal["", "first", "finite_difference", "exact"],
        about('gradient of the alphas; "": the one of the preset'),
    ] = ""
    radius: Annotated[float, about("step of finite_difference, over the norm", gt=0)] = 0.01
    architect_statistics: Annotated[
        Literal["keep", "move"], about("do alpha steps move running statistics, as the original's?")
    ] = "keep"
    warmup_epochs: Annotated[int, about("epochs at the start without alpha steps", ge=0)] = 0


class Weights(Table, frozen=True, kw_only=True):
    """SGD with momentum on the weights, cosine schedule"""

    learning_rate: Annotated[float, about("at the start", ge=0)] = 0.025
    learning_rate_min: Annotated[float, about("at the end", ge=0)] = 0.001
    momentum: Annotated[Share, about("share of the last direction that is kept")] = 0.9
    weight_decay: Annotated[float, about("added to the gradient, times the weight", ge=0)] = 3e-4
    clip_norm: Annotated[float, about("largest norm of the gradient", gt=0)] = 5.0


class Alphas(Table, frozen=True, kw_only=True):
    """Adam on the alphas"""

    learning_rate: Annotated[float, about("constant", ge=0)] = 3e-4
    betas: Annotated[tuple[Share, Share], about("decay of the two moments")] = (0.5, 0.999)
    weight_decay: Annotated[float, about("added to the gradient, times alpha", ge=0)] = 1e-3
    epsilon: Annotated[float, about("added to the root of the second moment", gt=0)] = 1e-8
    epsilon_placement: Annotated[
        Literal["original", "modern"], about("before or after bias correction")
    ] = "original"
    init_scale: Annotated[float, about("deviation of the first alphas", ge=0)] = 1e-3


class Schedule(Table, frozen=True, kw_only=True):
    """how long"""

    epochs: Annotated[int, about("epochs", ge=1)] = 50
    steps_per_epoch: Annotated[int, about("steps; 0: once over the weight half", ge=0)] = 0


class Evaluation(Table, frozen=True, kw_only=True):
    """scoring on the alpha half"""

    every_epochs: Annotated[int, about("epochs between evaluations", ge=1)] = 1
    examples: Annotated[int, about("pictures that are scored; 0: the whole half", ge=0)] = 0


class Checkpoint(Table, frozen=True, kw_only=True):
    """saved states"""

    every_steps: Annotated[int, about("steps between checkpoints", ge=1)] = 500
    keep: Annotated[int, about("newest checkpoints that are kept", ge=1)] = 2


class Log(Table, frozen=True, kw_only=True):
    """what is told on the way"""

    every_steps: Annotated[int, about("steps between lines", ge=1)] = 50
    tensorboard: Annotated[bool, about("write event files")] = True
    pictures_every: Annotated[
        int, about("evaluations between pictures in a search's event files; 0: none", ge=0)
    ] = 1
    profile_steps: Annotated[
        int, about("steps whose time is told part by part and traced, early on; 0: none", ge=0)
    ] = 0
    network: Annotated[
        bool, about("show the size, parameters and multiply-adds of each cell at the start")
    ] = False


class Cluster(Table, frozen=True, kw_only=True):
    """devices and processes"""

    cpu_devices: Annotated[
        int, about("CPU devices of a process; 0: as jax finds; its environment wins", ge=0, le=1024)
    ] = 0
    platform: Annotated[
        Literal["", "cpu", "cuda", "tpu"], about('kind of device; "": the best there is')
    ] = ""
    initialization_timeout_s: Annotated[int, about("longest wait for all to come", ge=1)] = 60
    heartbeat_timeout_s: Annotated[int, about("silence after which a peer is lost", ge=1)] = 30
    compile_timeout_s: Annotated[
        int, about("longest compiling with the first steps; then exit 4; 0: any time", ge=0)
    ] = 7200
    step_timeout_s: Annotated[
        int, about("longest step, unless step_timeout_factor allows more; 0: any time", ge=0)
    ] = 300
    step_timeout_factor: Annotated[
        float, about("a step may last this many times the slowest step so far", ge=1)
    ] = 10.0
    evaluation_timeout_s: Annotated[
        int, about("longest evaluation of an epoch; then exit 4; 0: any time", ge=0)
    ] = 7200
    save_timeout_s: Annotated[
        int, about("longest saving of a checkpoint or result; then exit 4; 0: any time", ge=0)
    ] = 3600


class Compile(Table, frozen=True, kw_only=True):
    """compiled programs"""

    cache: Annotated[bool, about("keep them on disk between runs")] = True
    cache_dir: Annotated[
        str, about('where; "": darts_dist/xla, of plans darts_dist/plans, in the cache folder')
    ] = ""


class Debug(Table, frozen=True, kw_only=True):
    """finding faults; nans and eager on one device (mesh.seed=1 mesh.data=1)"""

    nans: Annotated[bool, about("stop at the first NaN and name the operation it is from")] = False
    eager: Annotated[
        bool, about("compile nothing: prints and breakpoints see values; minutes a step at first")
    ] = False
    replicas_every_steps: Annotated[
        int, about("compare the state's copies so often, besides at saves and epochs; 0: no", ge=0)
    ] = 0
