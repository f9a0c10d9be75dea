"""The config of a plan: that of a search or of a training, and the machine that is planned for.

Place: layer 0. Which of the two a file is follows from the keys that only one of them has.
"""

from collections.abc import Sequence
from typing import Annotated

from darts_dist import config as configs
from darts_dist import machines, schema
from darts_dist.config import Config
from darts_dist.errors import ConfigError
from darts_dist.knobs import Table, about
from darts_dist.trainconfig import TrainConfig

TOPOLOGY = about("machine that is planned for: cpu:8, h100:8, v5e:16x16, v5p:4x4x4, v6e:16x16")


class Plan(Table, frozen=True, kw_only=True):
    """what a plan is told besides"""

    examples: Annotated[
        int, about("training pictures; 0: as many as the data set is known to have", ge=0)
    ] = 0
    largest_batch: Annotated[
        bool, about("compile for twice the batch, too, and fit the largest that memory takes")
    ] = False


class PlanSearch(Config, frozen=True, kw_only=True):
    """All knobs of planning a search: its own, and more."""

    topology: Annotated[str, TOPOLOGY] = ""
    plan: Plan = Plan()


class PlanTrain(TrainConfig, frozen=True, kw_only=True):
    """All knobs of planning a training: its own, and more."""

    topology: Annotated[str, TOPOLOGY] = ""
    plan: Plan = Plan()


SIZED_BY_USER = ("image_folder", "array_record")
AnyPlan = PlanSearch | PlanTrain


def load(path: str | None, overrides: Sequence[str] = ()) -> AnyPlan:
    """Returns the config of planning what a TOML file (None: a packaged one) configures.

    It is that of a training where a key of the file or an override is one that only trainings
    have.  Raises ConfigError as `config.load` does, and InputError for an unknown topology.
    """
    keys = {one.partition("=")[0].strip() for one in overrides}
    tree: dict = {}
    file = configs.place(path) if path is not None else None
    if file is not None and file.is_file():  # else load_as says what is wrong with it
        text = file.read_bytes().decode("utf-8-sig", errors="replace")
        tree = schema.parse(text, str(path))
    if configs.choose(configs.SEARCHES, tree, overrides) is configs.TextConfig:
        raise ConfigError('space.kind = "rnn": no plans of texts in this version; wanted cnn')
    keys |= _keys(tree)
    trains = keys & (schema.knobs(PlanTrain).keys() - schema.knobs(PlanSearch).keys())
    searches = keys & (schema.knobs(PlanSearch).keys() - schema.knobs(PlanTrain).keys())
    if trains and not searches:
        made = configs.load_as(PlanTrain, path, overrides, packaged="train_sample")
    else:
        made = configs.load_as(PlanSearch, path, overrides, packaged="sample")
    machines.parse(made.topology)
    if made.data.kind in SIZED_BY_USER and not (made.plan.examples and made.network.classes):
        raise ConfigError(
            "how many pictures and classes the data have is not known without them; "
            "wanted plan.examples=N network.classes=K (ImageNet: 1281167 and 1000)"
        )
    return made


def _keys(tree: dict, prefix: str = "") -> set[str]:
    """The keys of a tree of tables, dotted."""
    found = set()
    for key, value in tree.items():
        found |= _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found
