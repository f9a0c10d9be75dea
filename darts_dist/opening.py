"""Opening a run: what its folder holds already, and what all its processes have to have alike.

Place: layer 3, what a verb does between reading its config and looking at data.
"""

import importlib.metadata
import json
import platform
from typing import Any

from etils import epath

from darts_dist import agreement, schema
from darts_dist import config as configs
from darts_dist.errors import CheckpointError, ConfigError, InputError
from darts_dist.trainconfig import AnyConfig
from darts_dist.watchdog import Limits

PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy")
SELECTED = "select"  # the folder, in that of a search, of the trainings of its cells


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that make the numbers."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def limits(config: AnyConfig) -> Limits:
    """Returns the watchdog's limits as a config has them."""
    knobs = config.cluster
    return Limits(
        compile=knobs.compile_timeout_s,
        step=knobs.step_timeout_s,
        evaluation=knobs.evaluation_timeout_s,
        save=knobs.save_timeout_s,
        factor=knobs.step_timeout_factor,
    )


def agree(config: AnyConfig, folder: epath.Path) -> None:
    """Raises, on all processes, what tells of one with other devices, config, code or folder."""
    values = schema.flat(config).items()
    agreement.check_devices()
    agreement.check_same(
        {
            **{key: repr(value) for key, value in values if key not in configs.OF_A_PROCESS},
            **{f"the version of {name}": version for name, version in versions().items()},
            "the code of darts_dist": agreement.code_version(),
        }
    )
    agreement.check_folder(folder)


def finished(config: AnyConfig, folder: epath.Path) -> dict[str, Any] | None:
    """Returns the result of the run in a folder, None of one that is new or has not ended well.

    Raises a ConfigError that lists the keys of its config that must not change and did.
    """
    stored = folder / "config.toml"
    if stored.exists():
        try:
            old = configs.load_as(type(config), str(stored), packaged="")
        except ConfigError as error:
            raise ConfigError(f"{error}; mend it or remove it, checkpoints hold a copy") from None
        check_config(config, old, f"the run in {folder}", folder)
    result = folder / "result.json"
    return read_result(result) if result.exists() else None


def check_config(config: AnyConfig, old: AnyConfig, what: str, folder: epath.Path) -> None:
    """Raises a ConfigError where `what`, made with an older config, cannot be resumed with this.

    folder: of the run.
    """
    changed = [
        f"{key} (was {before!r}, now {now!r})"
        for key, before, now in configs.differences(old, config)
        if not key.startswith(configs.FREE_ON_RESUME)
    ]
    if changed:
        raise ConfigError(
            f"{what} has another config: {', '.join(changed)}; give the old values or "
            f"{elsewhere(folder)}"
        )


def elsewhere(folder: epath.Path) -> str:
    """Returns how a run comes to a folder without what is in this one, as the end of an error.

    `select` has its trainings in folders of its own choice and takes no --workdir.
    """
    return f"remove {folder}" if folder.parent.name == SELECTED else "another --workdir"


def checkpoints_of(run: str) -> epath.Path:
    """Returns where a run keeps its checkpoints; CheckpointError where there is no such folder."""
    place = configs.place(run)
    place = place if "://" in run else place.resolve()
    folder = place / "checkpoints"
    if not place.exists():
        raise CheckpointError(f"{place}: there is no such run")
    if not folder.exists():
        raise CheckpointError(f"{folder} is not there: the run has saved nothing yet, or is no run")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; wanted the folder of a run's checkpoints")
    return folder


def meta(
    config: AnyConfig, epoch_steps: int, resumed_from: list[int], about: dict[str, Any]
) -> dict[str, Any]:
    """Returns what a checkpoint tells of its run, as JSON; about: what its task adds."""
    return {
        "config": configs.dump(config),
        "epoch_steps": epoch_steps,
        "resumed_from": resumed_from,
        "versions": versions(),
        **about,
    }


def read_result(path: epath.Path) -> dict[str, Any]:
    """Returns what a run that ended well wrote last; InputError for a damaged file.

    Each seed's row has a number and a status, and a genotype, where there is one, is an object.
    """
    try:
        # null for a NaN, which is no JSON and which older versions wrote
        result = json.loads(path.read_text(), parse_constant=lambda _: None)
        seeds = result.get("seeds") if isinstance(result, dict) else None
        if not isinstance(seeds, list):
            damage = "no result"
        else:
            damage = next(filter(None, map(_damage_of, seeds)), "")
    except (OSError, ValueError, RecursionError) as error:
        damage = str(error)
    if damage:
        raise damaged(path, damage)
    return result


def damaged(path: epath.Path, damage: str) -> InputError:
    """Returns the error of a result that cannot be what a run wrote."""
    return InputError(
        f"{path} is damaged: {damage}; remove it, and the run ends again from its checkpoint"
    )


def _damage_of(row: Any) -> str:
    """Returns what is wrong with the row of a seed, "" where nothing is."""
    if not isinstance(row, dict):
        return f"the row of a seed is {json.dumps(row)}; wanted an object"
    wanted: dict[str, tuple[Any, str]] = {"seed": (int, "a number"), "status": (str, "a text")}
    if "genotype" in row:
        wanted["genotype"] = (dict | None, "an object")
    for key, (kind, words) in wanted.items():
        if not isinstance(row.get(key), kind):
            found = json.dumps(row[key]) if key in row else "nothing"
            return f"{key} of a seed is {found}; wanted {words}"
    return ""


def read_starts(path: epath.Path, known: list[int]) -> list[int]:
    """Returns the steps that a run was resumed from, as the file or else its checkpoint knows."""
    try:
        return [int(step) for step in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return known
