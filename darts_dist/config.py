"""The config of a search: all knobs, the rules between them, reading, writing, comparing.

It holds numbers and names only. It is checked once, here; everywhere else it is trusted.
"""

import hashlib
import importlib.resources
import json
from collections.abc import Sequence
from typing import Annotated, Any

from etils import epath

from darts_dist import schema
from darts_dist.errors import ConfigError, InputError
from darts_dist.knobs import (
    Alphas,
    BatchNorm,
    Checkpoint,
    Cluster,
    Compile,
    Data,
    Evaluation,
    Log,
    Mesh,
    Method,
    Network,
    Precision,
    Schedule,
    Seeds,
    Space,
    Table,
    Weights,
    about,
)

__all__ = [
    "FREE_ON_RESUME",
    "Alphas",
    "BatchNorm",
    "Checkpoint",
    "Cluster",
    "Compile",
    "Config",
    "Data",
    "Evaluation",
    "Log",
    "Mesh",
    "Method",
    "Network",
    "Precision",
    "Schedule",
    "Seeds",
    "Space",
    "Weights",
    "config_hash",
    "describe",
    "differences",
    "dump",
    "load",
    "parse",
]


class Config(Table, frozen=True, kw_only=True):
    """All knobs of a search; made whole and checked, or not at all."""

    name: Annotated[
        str,
        about(
            "name of the run; the file's own where it sets none",
            pattern=r"^[^/]+$",
            extra={"wanted": "text without /"},
        ),
    ] = "sample"
    space: Space = Space()
    network: Network = Network()
    data: Data = Data()
    seeds: Seeds = Seeds()
    mesh: Mesh = Mesh()
    batch_norm: BatchNorm = BatchNorm()
    precision: Precision = Precision()
    method: Method = Method()
    weights: Weights = Weights()
    alphas: Alphas = Alphas()
    schedule: Schedule = Schedule()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    cluster: Cluster = Cluster()
    compile: Compile = Compile()

    def __post_init__(self):
        """Raises a ConfigError for the first rule between knobs that does not hold."""
        check(self)


def check(config: Config) -> None:
    """Raises a ConfigError for the first rule between knobs that does not hold."""
    operations, data, network = config.space.operations, config.data, config.network
    for operation in operations:
        if operations.count(operation) > 1:
            _fail("space.operations", operations, f"{operation} once")
    if set(operations) <= {"none"}:
        _fail("space.operations", operations, "at least one operation besides none")
    if network.image_px % 2:
        _fail("network.image_px", network.image_px, "an even number")
    if network.classes == 1:
        _fail("network.classes", 1, "at least 2, or 0 for those of the data")
    if data.kind == "image_folder" and network.in_channels not in (1, 3):
        wanted = "1 (grey) or 3 (colour) for data.kind = image_folder"
        _fail("network.in_channels", network.in_channels, wanted)
    for key, values in (("data.mean", data.mean), ("data.std", data.std)):
        if values and len(values) != network.in_channels:
            _fail(key, values, f"one for each of network.in_channels = {network.in_channels}")
    if config.weights.learning_rate_min > config.weights.learning_rate:
        found = config.weights.learning_rate_min
        limit = f"at most weights.learning_rate = {config.weights.learning_rate}"
        _fail("weights.learning_rate_min", found, limit)
    _check_batch(config)


def _check_batch(config: Config) -> None:
    mesh, batch = config.mesh, config.data.global_batch
    if mesh.seed and config.seeds.count % mesh.seed:
        _fail("seeds.count", config.seeds.count, f"a multiple of mesh.seed = {mesh.seed}")
    if mesh.data and batch % mesh.data:
        _fail("data.global_batch", batch, f"a multiple of mesh.data = {mesh.data}")
    kind, _, size = config.batch_norm.sync.partition(":")
    local = batch // (mesh.data or 1)
    if kind == "group" and local % int(size):
        part = f"the {local} pictures of a device" if mesh.data else f"data.global_batch = {batch}"
        _fail("batch_norm.sync", config.batch_norm.sync, f"groups that divide {part}")


def _fail(key: str, found: Any, wanted: str) -> None:
    raise ConfigError(f"{key} = {schema.literal(found)}; wanted {wanted}")


LATER = {
    "space.kind": {"rnn": "recurrent cells"},
    "data.kind": {
        "array_record": "ArrayRecord files",
        "text": "texts",
    },
}
"""Values that are known by name and answered with more than "wanted ..."."""


def load(path: str | None, overrides: Sequence[str] = ()) -> Config:
    """Returns the config of a TOML file (None: the packaged sample) with overrides on top.

    path: a local file or any path that epath can read.  overrides: texts `key.path=VALUE`.
    Raises a ConfigError that names the file, or the key with what was found and what is wanted.
    """
    if path is None:
        text = importlib.resources.files("darts_dist").joinpath("configs/sample.toml").read_text()
        return parse(text, "configs/sample.toml", "sample", overrides)
    file = place(path)
    try:
        if file.is_dir():
            raise ConfigError(f"{path} is a folder; wanted a TOML file, such as {path}/config.toml")
        text = file.read_bytes().decode("utf-8-sig")  # some editors put a mark of UTF-8 in front
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; wanted a TOML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; wanted a TOML file") from None
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{path} cannot be read: {reason}; wanted a TOML file") from None
    return parse(text, path, file.stem, overrides)


def place(path: str) -> epath.Path:
    """Returns a file or folder, local or by URL; InputError for one that no backend can reach."""
    if not path:
        raise InputError('a path is empty: ""; name a file or a folder')
    try:
        found = epath.Path(path)
        if "://" in path:
            found.exists()
    except KeyError as error:
        kind = error.args[0]
        raise InputError(
            f"{path}: {kind} is unknown; wanted a path, gs://... or s3://..."
        ) from None
    except ImportError as error:
        raise InputError(f"{path} cannot be reached: {error}") from None
    return found


def parse(text: str, where: str, name: str = "sample", overrides: Sequence[str] = ()) -> Config:
    """Returns the config of a TOML text; `where` names it in errors, `name` is its run's."""
    tree = {"name": name} | schema.parse(text, where)
    for one in overrides:
        tree = schema.override(Config, tree, one)
    for key, later in LATER.items():
        table, _, knob = key.partition(".")
        values = tree.get(table)
        value = values.get(knob) if isinstance(values, dict) else None
        if isinstance(value, str) and value in later:
            wanted = schema.knobs(Config)[key].wanted
            raise ConfigError(
                f'{key} = "{value}": {later[value]} are not in this version; wanted {wanted}'
            )
    return schema.convert(Config, tree)


def dump(config: Config) -> str:
    """Returns the TOML text of all knobs, which `parse` turns into an equal config."""
    return schema.dump(config)


def describe() -> str:
    """Returns a page with every knob: default, range and meaning, table by table."""
    return schema.describe(Config)


def _keys(*starts: str) -> frozenset[str]:
    return frozenset(key for key in schema.knobs(Config) if key.startswith(starts))


FREE_ON_RESUME = _keys(
    "name", "schedule.epochs", "log.", "data.path", "data.threads", "mesh.", "checkpoint."
) | _keys("cluster.", "compile.")
"""Keys that may differ between a checkpoint and the run that resumes it."""

WITHOUT_EFFECT = FREE_ON_RESUME - _keys("schedule.epochs", "mesh.")
"""Keys that do not change what a search finds."""


def differences(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """Returns (key, value in a, value in b) of every knob that differs."""
    left, right = schema.flat(a), schema.flat(b)
    return [(key, left[key], right[key]) for key in left if left[key] != right[key]]


def config_hash(config: Config) -> str:
    """Returns 16 hex digits of a SHA-256 over all knobs that change what a search finds."""
    values = {key: one for key, one in schema.flat(config).items() if key not in WITHOUT_EFFECT}
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
