"""What was found once, kept for the next call: files named by all that they follow from.

Place: layer 3, over `programs`; figures of plans are kept so too (`planstore`). Kept for runs are
the programs that they trace. With jax's own cache of executables a run still has to trace its
programs to find them there, which takes Python several times as long as XLA takes to read them.

Everything that is traced from has to be part of the name, and Python can change what a program does
without a trace of it in config or sources. So the verbs keep programs, and nothing else does.
"""

import hashlib
import json
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from darts_dist import agreement, metrics, opening
from darts_dist.errors import StorageError
from darts_dist.programs import Portable, Program

DIGEST = 32  # bytes of a SHA-256, with which a file begins

Portables = Mapping[str, Mapping[Any, Portable]]  # by program, by the shapes of its arguments


def name_of(about: Any) -> str:
    """Returns 32 hex digits that stand for `about` (JSON), this package and its libraries."""
    every = [about, agreement.code_version(), opening.versions()]
    return hashlib.sha256(json.dumps(every).encode()).hexdigest()[:32]


def keep(file: epath.Path, content: str | bytes, *, user: str) -> None:
    """Writes a file; where that fails, warns that the next `user` will find nothing."""
    try:
        metrics.write_whole(file, content)
    except StorageError as error:
        print(f"warning: nothing is kept for the next {user}: {error}", file=sys.stderr)


class KeptPrograms:
    """Traced programs in a file of a folder, small and for any machine of the kind.

    folder: to be trusted as that of jax's cache, whose files are run: trees are pickled.  about:
    what the programs are traced from besides this package, its libraries and jax's options, as
    JSON.  A file that is damaged is made anew; one that cannot be written is left out.
    """

    def __init__(self, folder: epath.Path, about: Any) -> None:
        options = sorted((name, repr(value)) for name, value in jax.config.values.items())
        self.file = folder / f"{name_of([about, options])}.programs"

    def lower(
        self, programs: Mapping[str, Program], trace: Callable[[], None]
    ) -> dict[tuple[Program, Any], Any]:
        """Returns the programs of a step as `programs.lower_all` does, traced by `trace` where no
        earlier run did so.

        programs: all by name; those are lowered that are traced.
        """
        found = self._read()
        if found is None:
            trace()
            found = {
                name: {sizes: program.export(sizes) for sizes in program.traces}
                for name, program in programs.items()
            }
            content = pickle.dumps(found)
            keep(self.file, hashlib.sha256(content).digest() + content, user="run")
        every = {(name, sizes): one for name, of in found.items() for sizes, one in of.items()}
        longest_first = sorted(every, key=lambda at: -len(every[at].program))
        return {
            (programs[name], sizes): programs[name].lower_portable(every[name, sizes])
            for name, sizes in longest_first
        }

    def _read(self) -> Portables | None:
        try:
            content = self.file.read_bytes()
        except OSError:
            return None
        whole = hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]
        return pickle.loads(content[DIGEST:]) if whole else None
