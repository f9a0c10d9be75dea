"""The config of a plan: that of a search or of a training, and the machine that is planned for.

Place: layer 0. Which of the two a file is follows from the keys that only one of them has.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from darts_dist import config as configs
from darts_dist import machines, schema
from darts_dist.config import Config, TextConfig
from darts_dist.errors import ConfigError
from darts_dist.knobs import Table, about
from darts_dist.rules import fail
from darts_dist.trainconfig import TextTrainConfig, TrainConfig

Count = Annotated[int, Meta(ge=1)]
TOPOLOGY = about("machine that is planned for: cpu:8, h100:8, v5e:16x16, v5p:4x4x4, v6e:16x16")


class Plan(Table, frozen=True, kw_only=True):
    """what a plan is told besides"""

    examples: Annotated[
        int, about("training pictures; 0: as many as the data set is known to have", ge=0)
    ] = 0
    global_batches: Annotated[
        tuple[Count, ...],
        about("values of data.global_batch to compare; the ends are compiled, the rest is fitted"),
    ] = ()
    seeds: Annotated[
        tuple[Count, ...],
        about("values of seeds.count to compare; each mesh that they lead to is compiled once"),
    ] = ()
    effort: Annotated[
        Literal["least", "full"],
        about("of the compiler for TPUs; full: as a run is compiled, which takes longer"),
    ] = "least"


class TextPlan(Plan, frozen=True, kw_only=True):
    """what a plan is told besides"""

    text: Annotated[
        Literal["", "ptb", "wikitext2"],
        about('the text of data.kind=text; "": one of examples, scored and words'),
    ] = ""
    examples: Annotated[int, about("words of train.txt, ends of lines too", ge=0)] = 0
    scored: Annotated[int, about("words of valid.txt, ends of lines too", ge=0)] = 0
    words: Annotated[int, about("different words", ge=0)] = 0


class PlanSearch(Config, frozen=True, kw_only=True):
    """All knobs of planning a search: its own, and more."""

    topology: Annotated[str, TOPOLOGY] = ""
    plan: Plan = Plan()


class PlanTrain(TrainConfig, frozen=True, kw_only=True):
    """All knobs of planning a training: its own, and more."""

    topology: Annotated[str, TOPOLOGY] = ""
    plan: Plan = Plan()


class PlanTextSearch(TextConfig, frozen=True, kw_only=True):
    """All knobs of planning a search of recurrent cells: its own, and more."""

    topology: Annotated[str, TOPOLOGY] = ""
    plan: TextPlan = TextPlan()


class PlanTextTrain(TextTrainConfig, frozen=True, kw_only=True):
    """All knobs of planning a training of a recurrent cell: its own, and more."""

    topology: Annotated[str, TOPOLOGY] = ""
    plan: TextPlan = TextPlan()


SIZED_BY_USER = ("image_folder", "array_record")
SEARCHES: dict[str, type[Table]] = {"cnn": PlanSearch, "rnn": PlanTextSearch}
TRAININGS: dict[str, type[Table]] = {"cnn": PlanTrain, "rnn": PlanTextTrain}
AnyTextPlan = PlanTextSearch | PlanTextTrain
AnyPlan = PlanSearch | PlanTrain | AnyTextPlan


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
    keys |= _keys(tree)
    search = configs.choose(SEARCHES, tree, overrides)
    training = configs.choose(TRAININGS, tree, overrides)
    trains = keys & (schema.knobs(training).keys() - schema.knobs(search).keys())
    searches = keys & (schema.knobs(search).keys() - schema.knobs(training).keys())
    if trains and not searches:
        made = configs.load_as(TRAININGS, path, overrides, packaged="train_sample")
    else:
        made = configs.load_as(SEARCHES, path, overrides, packaged="sample")
    machines.parse(made.topology)
    for key in ("global_batches", "seeds"):
        values = getattr(made.plan, key)
        if values and len(set(values)) < 2:
            fail(f"plan.{key}", values, "at least two different numbers, or []")
    _check_sizes(made)
    return made


def _check_sizes(made: AnyPlan) -> None:
    """Raises ConfigError where nobody says how large the data are."""
    plan = made.plan
    if isinstance(made, PlanTextSearch | PlanTextTrain):
        own = made.plan.examples and made.plan.scored and made.plan.words
        if made.data.kind == "text" and not (made.plan.text or own):
            raise ConfigError(
                "how many words the texts have is not known without them; wanted plan.text=ptb | "
                "wikitext2, or plan.examples=N plan.scored=N plan.words=N"
            )
    elif made.data.kind in SIZED_BY_USER and not (plan.examples and made.network.classes):
        raise ConfigError(
            "how many pictures and classes the data have is not known without them; "
            "wanted plan.examples=N network.classes=K (ImageNet: 1281167 and 1000)"
        )


def _keys(tree: dict, prefix: str = "") -> set[str]:
    """The keys of a tree of tables, dotted."""
    found = set()
    for key, value in tree.items():
        found |= _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found
