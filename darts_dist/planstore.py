"""What compiled programs tell, kept from one call of `plan` to the next.

Place: layer 4, part of the verb `plan`. jax reads executables that it kept only for devices that
are there, and a plan needs of them nothing but figures.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import msgspec
from etils import epath

from darts_dist import config as configs
from darts_dist import keeping
from darts_dist.planconfig import AnyPlan
from darts_dist.planning import Compiled

NOT_NOW = {"trace_s": 0.0, "compile_s": 0.0}  # times of what an earlier call compiled
SWEPT = {"global_batches": (), "seeds": ()}  # knobs of what is compared, not of what is compiled


class Kept:
    """`compiling`, config -> `Compiled`, that looks into a folder first.

    folder: None for compiling each time.  about: what else the figures depend on, as JSON.
    used: how many configs were there already.  A file that cannot be read is made anew; one that
    cannot be written is left out.
    """

    def __init__(
        self, compiling: Callable[[AnyPlan], Compiled], folder: epath.Path | None, about: Any
    ) -> None:
        self.used, self.folder = 0, folder
        self._compiling = compiling
        self._about = about

    def __call__(self, config: AnyPlan) -> Compiled:
        """Returns the figures of a config's programs."""
        if self.folder is None:
            return self._compiling(config)
        file = self.folder / f"{self._key(config)}.json"
        try:
            found = _read(file)
        except (OSError, msgspec.MsgspecError):
            found = self._compiling(config)
            keeping.keep(file, json.dumps(msgspec.to_builtins(found)), user="call")
            return found
        self.used += 1
        return found

    def _key(self, config: AnyPlan) -> str:
        plan = msgspec.structs.replace(config.plan, **SWEPT)
        one = configs.config_hash(msgspec.structs.replace(config, plan=plan))
        return keeping.name_of([one, self._about])


def _read(file: epath.Path) -> Compiled:
    """Returns what was written of a `Compiled`; JSON has made texts of its whole-number keys."""
    found = msgspec.json.decode(file.read_bytes(), type=Compiled)
    for one in (*found.programs, *found.collectives):
        one["runs"] = {int(length): runs for length, runs in one["runs"].items()}
    return dataclasses.replace(found, timings=NOT_NOW)
