"""The command line: `darts-dist VERB [CONFIG.toml] [key.path=value ...] [options]`.

It finds the verb, resolves the config, and turns whatever happens into one line and an exit code.
Nothing here imports jax: a verb's module does, once the command line is known to be good.
"""

import argparse
import contextlib
import dataclasses
import errno
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import darts_dist
from darts_dist import (
    config,
    ending,
    metrics,
    planconfig,
    processes,
    schema,
    trainconfig,
    weightfile,
)
from darts_dist.errors import ConfigError, InputError, StorageError
from darts_dist.knobs import Table
from darts_dist.summary import summary


@dataclasses.dataclass(frozen=True)
class Verb:
    """What a verb is: its module's `run(config, workdir, debug)` returns its result, which its
    module's own `summary`, or else the one here, puts in words.

    structs: of its config, by space.kind.  load(path, overrides) -> config.  takes: what its first
    word is: a config file, or a run (or a file in its place) that is its workdir too.  makes_run:
    whether it makes a folder where --workdir names none.  steps: whether it takes steps, of seeds
    that it chooses, and not those of a run that has taken them.
    """

    module: str
    use: str
    structs: Mapping[str, type[Table]]
    load: Callable[[Any, Sequence[str]], Any]
    takes: str = "[CONFIG.toml]"
    makes_run: bool = True
    steps: bool = True

    @property
    def on_run(self) -> bool:
        """Whether it works on a run that is there already."""
        return self.takes.startswith("RUN")


VERBS = {
    "search": Verb(
        "darts_dist.search",
        "search cells by gradient descent, one genotype a seed",
        config.SEARCHES,
        config.load,
    ),
    "train": Verb(
        "darts_dist.train",
        "train the network of a genotype (genotype=NAME, file or run) and score it",
        trainconfig.TRAININGS,
        trainconfig.load,
    ),
    "select": Verb(
        "darts_dist.select",
        "train the cells of a search briefly, rank them, keep the best",
        trainconfig.SELECTIONS,
        trainconfig.of_search,
        takes="RUN",
    ),
    "evaluate": Verb(
        "darts_dist.evaluate",
        "score the networks of a run, or one in a file of PyTorch, on what was held out",
        trainconfig.TRAININGS,
        weightfile.of_target,
        takes="RUN | FILE.pt",
        steps=False,
    ),
    "plan": Verb(
        "darts_dist.plan",
        "compile the step of a search or a training for topology=KIND:SHAPE and tell its cost",
        planconfig.SEARCHES,
        planconfig.load,
        makes_run=False,
    ),
}
USAGE = "darts-dist VERB [CONFIG.toml | RUN] [key.path=value ...] [options]"
OPTIONS = """\
  --help          this page: every knob with its default, range and meaning
  --print         print the resolved config as TOML and end
  --json          the last line on stdout is one JSON object: the result
  --workdir DIR   the run folder (default: runs/NAME-TIME); an unfinished run there is resumed
  --debug         one device, three steps, the network's table, NaN checks, tracebacks
  --profile N     tell where the time of N steps goes, and trace them: log.profile_steps=N
  --version       print the version and end"""
FEW_STEPS = ("seeds.count=1", "schedule.epochs=1", "schedule.steps_per_epoch=3")
DEBUG = (
    "mesh.seed=1",
    "mesh.data=1",
    *FEW_STEPS,
    "cluster.cpu_devices=1",
    "log.network=true",
    "debug.nans=true",
)
"""What `--debug` sets, unless the command line says otherwise; FEW_STEPS where a verb takes any."""
NOUNS = {"cnn": "pictures (space.kind=cnn, the default)", "rnn": "texts (space.kind=rnn)"}
UNWRITABLE = ending.STORAGE_ERRNO | {errno.EACCES, errno.EPERM}


class Parser(argparse.ArgumentParser):
    """Arguments whose mistakes are told like every other bad input."""

    hint = "--help tells more"

    def __init__(self, **settings: Any) -> None:
        """Takes argparse's settings; texts keep their lines and options are never abbreviated."""
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raises InputError with what argparse found."""
        raise InputError(f"{message}; {self.hint}")


class _Parser(Parser):
    hint = USAGE


def entry() -> NoReturn:
    """Runs the command line of this process and ends it; the console script."""
    use_huge_pages()
    ending.finish(lambda: _begin(sys.argv[1:]))


def _begin(argv: Sequence[str]) -> int:
    if parent := os.environ.get(processes.PARENT):
        processes.end_with(int(parent))
    return main(argv)


def main(argv: Sequence[str]) -> int:
    """Returns the exit code of one command line; nothing is raised, nothing exits."""
    return ending.outcome(lambda: _dispatch(argv), debug="--debug" in argv)


def _dispatch(argv: Sequence[str]) -> int:
    parser = _Parser(prog="darts-dist", add_help=False)
    parser.add_argument("words", nargs="*")
    for flag in ("--help", "--print", "--json", "--debug", "--version"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--workdir")
    parser.add_argument("--profile", metavar="N")
    _check_text(argv)
    given = parser.parse_intermixed_args(list(argv))
    if given.version:
        return _show(f"darts-dist {darts_dist.__version__}")
    verb, *words = given.words or [""]
    if verb and verb not in VERBS:
        hint = schema.nearest(verb, VERBS)
        raise InputError(f"{verb} is not a verb{hint}; there are: {', '.join(VERBS)}")
    if given.help:
        return _show(_help(verb))
    if not verb:
        raise InputError(f"no verb; {USAGE}; darts-dist --help tells more")
    module, on_run = VERBS[verb].module, VERBS[verb].on_run
    if given.profile is not None:
        words.append(f"log.profile_steps={given.profile}")
    first, resolved = _resolve(VERBS[verb], words, given.debug)
    if given.print:
        return _show(config.dump(resolved).strip())
    if on_run and given.workdir is not None:
        raise InputError(f"{verb} works on {first}; it takes no --workdir")
    if on_run:
        workdir = first
    elif VERBS[verb].makes_run or given.workdir is not None:
        workdir = _open_workdir(given.workdir, resolved.name)
    else:
        workdir = ""
    code = ending.outcome(
        lambda: _run(module, resolved, workdir, given),
        workdir="" if os.path.isfile(workdir) else workdir,
        option="" if on_run or not workdir else f"--workdir {workdir}",
        debug=given.debug,
    )
    if code and given.workdir is None and workdir and not on_run:
        with contextlib.suppress(OSError):  # only an empty folder can be removed
            os.rmdir(workdir)
    return code


def _check_text(argv: Sequence[str]) -> None:
    """Raises InputError for a word that neither a config nor a log can hold."""
    for word in argv:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InputError(f"{word} is not UTF-8 text; rename it, or link to it") from None


def _show(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has read what it wanted
        return 0
    return 0


def _run(module: str, resolved: Any, workdir: str, given: argparse.Namespace) -> int:
    with ending.uninterrupted():
        try:
            importlib.import_module("jax")
        except ValueError as error:  # jax reads its settings while it is imported
            raise ConfigError(f"jax does not take its environment: {error}; mend it") from None
        verb = importlib.import_module(module)
    result = verb.run(resolved, workdir, given.debug)
    importlib.import_module("darts_dist.cluster").leave()
    tell = getattr(verb, "summary", summary)
    told = metrics.to_json({**result, "workdir": workdir}) if given.json else tell(result, workdir)
    print(told, flush=True)
    if getattr(resolved, "select", False):
        _go_on(["select", workdir, *resolved.select_with, *(["--json"] if given.json else [])])
    return 0


def _go_on(words: Sequence[str]) -> NoReturn:
    """Becomes the process of another command line, which finds all devices free again."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.execv(sys.executable, [sys.executable, "-m", "darts_dist", *words])


def _help(verb: str) -> str:
    verbs = "\n".join(f"  {name:<15} {one.use}" for name, one in VERBS.items())
    usage = USAGE
    if verb:
        usage = usage.replace("VERB", verb).replace("[CONFIG.toml | RUN]", VERBS[verb].takes)
    parts = [f"{usage}\n", f"Verbs:\n{verbs}\n", f"Options:\n{OPTIONS}\n"]
    if verb:
        for kind, struct in VERBS[verb].structs.items():
            heading = f"Knobs of {NOUNS[kind]}, as key = default, with what is taken:"
            parts.append(f"{heading}\n\n{config.describe(struct)}\n")
    else:
        parts.append("darts-dist VERB --help lists every knob.")
    return "\n".join(parts).rstrip("\n")


def _resolve(verb: Verb, words: list[str], debug: bool) -> tuple[str, Any]:
    """Returns the first word that is no override, or "", and the config that is asked for."""
    path, overrides = None, []
    kind = "run" if verb.on_run else "config file"
    for word in words:
        if "=" in word and not (word.endswith(".toml") and os.path.exists(word)):
            overrides.append(word)
        elif any(word in schema.knobs(struct) for struct in verb.structs.values()):
            raise ConfigError(f"{word} has no value; write {word}=VALUE")
        elif path is not None:
            raise InputError(f"{word} is neither the {kind}, which is {path}, nor key.path=VALUE")
        else:
            path = word
    if debug:
        given = {override.partition("=")[0].strip() for override in overrides}
        left = given if verb.steps else given | {one.partition("=")[0] for one in FEW_STEPS}
        overrides += [one for one in DEBUG if one.partition("=")[0] not in left]
    if kind == "run" and path is None:
        raise InputError("no run; name its folder: runs/NAME-TIME")
    return path or "", verb.load(path, overrides)


def _open_workdir(asked: str | None, name: str) -> str:
    """Returns the run folder, made where it was not there."""
    if processes.several(os.environ) and not asked:
        raise InputError("several processes share one run folder; name it with --workdir DIR")
    new = f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    workdir = _new_name(new) if asked is None else asked
    try:
        config.place(workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be a folder: {error.strerror}; choose another with --workdir"
        kind = StorageError if error.errno in UNWRITABLE else InputError
        raise kind(f"{workdir} {reason}") from None
    return workdir


def _new_name(path: str) -> str:
    tried, number = path, 1
    while os.path.exists(tried):
        number += 1
        tried = f"{path}-{number}"
    return tried


def use_huge_pages() -> None:
    """Starts this process again, once, with huge pages for malloc: CPU steps are 1.3 times as fast.

    glibc reads the setting before Python starts, so it cannot be made from within.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "DARTS_REEXEC" in os.environ or "glibc.malloc.hugetlb" in tunables:
        return
    try:
        glibc = sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except ValueError:
        glibc = False
    if not glibc:
        return
    joined = ":".join(part for part in (tunables, "glibc.malloc.hugetlb=1") if part)
    environment = {**os.environ, "GLIBC_TUNABLES": joined, "DARTS_REEXEC": "1"}
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    except OSError:  # where programs may not start programs, slower is better than not at all
        return
