"""The config of a search: all knobs, checked together (`rules`); reading, writing, comparing.

It holds numbers and names only. It is checked once, here; everywhere else it is trusted.
"""

import contextlib
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

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
    Debug,
    Evaluation,
    Log,
    Mesh,
    Method,
    NameOfRun,
    Network,
    Precision,
    Schedule,
    Seeds,
    SelectWords,
    Space,
    Table,
    ThenSelect,
    Weights,
)
from darts_dist.rules import (
    STORED,
    check_batch,
    check_operations,
    check_pictures,
    check_rates,
    fail,
)
from darts_dist.textknobs import (
    TextAlphas,
    TextData,
    TextMethod,
    TextNetwork,
    TextRegularisation,
    TextSchedule,
    TextSearchEvaluation,
    TextSpace,
    TextWeights,
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
    "Debug",
    "Evaluation",
    "Log",
    "Mesh",
    "Method",
    "Network",
    "Precision",
    "Schedule",
    "Seeds",
    "Space",
    "TextConfig",
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

    name: NameOfRun = "sample"
    select: ThenSelect = False
    select_with: SelectWords = ()
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
    debug: Debug = Debug()

    def __post_init__(self):
        """Raises a ConfigError for the first rule between knobs that does not hold."""
        check(self)


class TextConfig(Table, frozen=True, kw_only=True):
    """All knobs of a search of recurrent cells; made whole and checked, or not at all."""

    name: NameOfRun = "text"
    select: ThenSelect = False
    select_with: SelectWords = ()
    space: TextSpace = TextSpace()
    network: TextNetwork = TextNetwork()
    data: TextData = TextData()
    seeds: Seeds = Seeds()
    mesh: Mesh = Mesh()
    batch_norm: BatchNorm = BatchNorm()
    precision: Precision = Precision()
    method: TextMethod = TextMethod()
    weights: TextWeights = TextWeights()
    alphas: TextAlphas = TextAlphas()
    regularisation: TextRegularisation = TextRegularisation()
    schedule: TextSchedule = TextSchedule()
    evaluation: TextSearchEvaluation = TextSearchEvaluation()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    cluster: Cluster = Cluster()
    compile: Compile = Compile()
    debug: Debug = Debug()

    def __post_init__(self):
        """Raises a ConfigError for the first rule between knobs that does not hold."""
        check_operations(self.space.operations)
        if self.batch_norm.sync.startswith("group"):
            fail("batch_norm.sync", self.batch_norm.sync, "batch | state for texts")
        check_batch(self)


SEARCHES: dict[str, type[Table]] = {"cnn": Config, "rnn": TextConfig}
"""What a search's config is, by space.kind."""


def check(config: Config) -> None:
    """Raises a ConfigError for the first rule between knobs that does not hold."""
    check_operations(config.space.operations)
    check_pictures(config.network, config.data)
    if config.data.evaluate_augmented and config.data.kind in STORED:
        wanted = f"false for data.kind = {config.data.kind}, of which centres are scored"
        fail("data.evaluate_augmented", True, wanted)
    check_rates(config.weights)
    check_batch(config)


Structs = type[Table] | Mapping[str, type[Table]]  # one, or those by space.kind
HINTS = {
    "data.kind": {
        "text": "texts go with space.kind=rnn",
    },
}
"""Values that are known by name and answered with more than "wanted ..."."""


def choose(structs: Structs, tree: Mapping[str, Any], overrides: Sequence[str]) -> type[Table]:
    """Returns the struct that space.kind asks for, in a tree of tables and what lies on top."""
    if not isinstance(structs, Mapping):
        return structs
    space = tree.get("space")
    kind = space.get("kind", "cnn") if isinstance(space, dict) else "cnn"
    for one in overrides:
        key, _, literal = one.partition("=")
        if key.strip() == "space.kind":
            kind = literal.strip().strip("\"'")
        elif key.strip() == "space":  # the whole table
            with contextlib.suppress(ConfigError):  # told as any override's, once its kind is known
                space = schema.parse(one, "").get("space")
                kind = space.get("kind", kind) if isinstance(space, dict) else kind
    if not isinstance(kind, str) or kind not in structs:
        raise ConfigError(
            f"space.kind = {schema.literal(kind)}; wanted {' | '.join(structs)}"
            f"{schema.nearest(str(kind), structs)}"
        )
    return structs[kind]


def load(path: str | None, overrides: Sequence[str] = ()) -> Any:
    """Returns the config of a search from a TOML file (None: the packaged sample).

    path: a local file or any path that epath can read.  overrides: texts `key.path=VALUE`, on top.
    Returns a `Config`, or a `TextConfig` where space.kind = "rnn".  Raises a ConfigError that names
    the file, or the key with what was found and what is wanted.
    """
    return load_as(SEARCHES, path, overrides, packaged="sample")


def load_as(
    structs: Structs, path: str | None, overrides: Sequence[str] = (), *, packaged: str
) -> Any:
    """Returns the struct of a TOML file (None: the one `packaged` by this name); see `load`."""
    if path is None:
        if isinstance(structs, Mapping) and choose(structs, {}, overrides) is not structs["cnn"]:
            return parse_as(structs, "", "the command line", "text", overrides)
        file = importlib.resources.files("darts_dist").joinpath(f"configs/{packaged}.toml")
        return parse_as(structs, file.read_text(), f"configs/{packaged}.toml", packaged, overrides)
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
    return parse_as(structs, text, path, file.stem, overrides)


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
        more = "; pip install 'darts-dist[gcs]'" if path.startswith("gs://") else ""
        raise InputError(f"{path} cannot be reached: {error}{more}") from None
    return found


def parse(text: str, where: str, name: str = "sample", overrides: Sequence[str] = ()) -> Any:
    """Returns the config of a TOML text; `where` names it in errors, `name` is its run's."""
    return parse_as(SEARCHES, text, where, name, overrides)


def parse_as(
    structs: Structs, text: str, where: str, name: str, overrides: Sequence[str] = ()
) -> Any:
    """Returns the struct of a TOML text, that one or the one for its space; see `parse`."""
    tree = {"name": name} | schema.parse(text, where)
    struct = choose(structs, tree, overrides)
    for one in overrides:
        tree = schema.override(struct, tree, one)
    for key, hints in HINTS.items():
        table, _, knob = key.partition(".")
        values = tree.get(table)
        value = values.get(knob) if isinstance(values, dict) else None
        known = schema.knobs(struct)[key]
        if isinstance(value, str) and value in hints and value not in known.choices:
            raise ConfigError(f'{key} = "{value}": {hints[value]}; wanted {known.wanted}')
    return schema.convert(struct, tree)


def dump(config: Table) -> str:
    """Returns the TOML text of all knobs, which `parse` turns into an equal config."""
    return schema.dump(config)


def describe(struct: type[Table] = Config) -> str:
    """Returns a page with every knob: default, range and meaning, table by table."""
    return schema.describe(struct)


WITHOUT_EFFECT = (
    "name",
    "select",
    "log.",
    "data.path",
    "data.threads",
    "checkpoint.",
    "cluster.",
    "compile.",
    "debug.nans",
    "debug.replicas",
)
"""Starts of the keys that do not change what a run finds."""

FREE_ON_RESUME = (*WITHOUT_EFFECT, "schedule.epochs", "mesh.", "debug.eager", "data.broken")
"""Starts of the keys that may differ between a checkpoint and the run that resumes it."""


OF_A_PROCESS = frozenset({"data.path", "compile.cache_dir"})
"""Keys that may differ between the processes of a run; their pictures are compared."""


def differences(a: Table, b: Table) -> list[tuple[str, Any, Any]]:
    """Returns (key, value in a, value in b) of every knob that differs."""
    left, right = schema.flat(a), schema.flat(b)
    return [(key, left[key], right[key]) for key in left if left[key] != right[key]]


def config_hash(config: Table) -> str:
    """Returns 16 hex digits of a SHA-256 over all knobs that change what a run finds."""
    flat = schema.flat(config)
    values = {key: one for key, one in flat.items() if not key.startswith(WITHOUT_EFFECT)}
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
