"""docs/errors.md is true: its commands, run on files made here, say what the page says.

A block has commands (`$ ...`), the lines that stderr shows after each, and `(exit code N)`; `...`
stands for figures and places that vary. Lines before `^C` are stdout's, after which Ctrl-C comes; a
line `# ...` says what happens to the files in between. Commands run in this process, but for those
that set the environment and those of blocks marked medium.
"""

import contextlib
import ctypes
import dataclasses
import importlib.util
import itertools
import os
import pathlib
import re
import shlex
import signal
import struct
import subprocess
import sys

import pytest
from error_files import HAPPENINGS, MAKERS

from darts_dist import cli, cluster, ending

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "errors.md").read_text()
DAC = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@dataclasses.dataclass
class Step:
    """A command of the page and what it says."""

    command: str
    out: list[str] | None = None  # what stdout shows before the signal
    err: list[str] = dataclasses.field(default_factory=list)
    code: int | None = None


def blocks():
    """Returns (place, heading's code, marks, steps) of each block."""
    found, code = [], None
    for part in re.finditer(r"^## (\d*).*?$|^```console(.*?)\n(.*?)^```$", PAGE, re.M | re.S):
        if part[3] is None:
            code = int(part[1]) if part[1] else None
            continue
        steps = []
        for line in part[3].splitlines():
            ends = re.fullmatch(r"\(exit code (\d+)\)", line)
            if line.startswith(("$ ", "# ")):
                steps.append(Step(line.removeprefix("$ ")))
            elif line == "^C":
                steps[-1].out, steps[-1].err = steps[-1].err, []
            elif ends:
                steps[-1].code = int(ends[1])
            else:
                steps[-1].err.append(line)
        line = PAGE.count("\n", 0, part.start()) + 1
        found.append((line, code, part[2].split(), steps))
    return found


@contextlib.contextmanager
def without_rights():
    """Lays down, for this thread, root's right to what the modes of files forbid."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    before = ctypes.create_string_buffer(24)  # 2 of: effective, permitted, inheritable; all u32
    if os.geteuid() == 0:
        assert libc.capget(header, before) == 0, os.strerror(ctypes.get_errno())
        (effective,) = struct.unpack_from("I", before)
        without = ctypes.create_string_buffer(before.raw, 24)
        struct.pack_into("I", without, 0, effective & ~DAC)
        assert libc.capset(header, without) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        if os.geteuid() == 0:
            assert libc.capset(header, before) == 0, os.strerror(ctypes.get_errno())


def run_here(words, capfd):
    """Returns (exit code, lines of stderr) of a command run in this process."""
    capfd.readouterr()
    if words[0] == "python":
        file = ROOT / words[1]
        module = importlib.util.module_from_spec(
            spec := importlib.util.spec_from_file_location(file.stem, file)
        )
        spec.loader.exec_module(module)
        code = ending.outcome(lambda: module.main(words[2:]))
    else:
        with without_rights() if "locked" in " ".join(words) else contextlib.nullcontext():
            code = cli.main(words[1:])
    return code, capfd.readouterr().err.splitlines()


def run_apart(words, out):
    """Returns (exit code, lines of stderr) of a command run by itself, with Ctrl-C after `out`."""
    given = list(itertools.takewhile(lambda word: "=" in word, words))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment |= dict(word.split("=", 1) for word in given)
    command = [sys.executable, "-m", "darts_dist", *words[len(given) + 1 :]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        for shown in out or []:
            told = process.stdout.readline()
            assert like(shown, told.rstrip("\n")), told or process.stderr.read()
        if out:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    return process.returncode, err.splitlines()


def like(shown, told):
    """Returns whether a line is as the page shows it."""
    return re.fullmatch(".*".join(map(re.escape, shown.split("..."))), told)


def entries():
    for line, code, marks, steps in blocks():
        name = f"line {line}: {steps[0].command}"
        kinds = [getattr(pytest.mark, mark) for mark in marks]
        yield pytest.param(steps, code, bool(marks), id=name, marks=kinds)


@pytest.mark.parametrize(("steps", "heading", "alone"), list(entries()))
def test_the_page_shows_what_a_user_sees(steps, heading, alone, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(cluster, "start", lambda **_: None)  # jax runs already
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"[\w.-]+", " ".join(step.command for step in steps)):
        if name in MAKERS and not pathlib.Path(name).exists():
            MAKERS[name](pathlib.Path(name))
    with contextlib.ExitStack() as stack:
        for step in steps:
            if step.command in HAPPENINGS:
                stack.enter_context(HAPPENINGS[step.command]())
                continue
            words = shlex.split(step.command)
            apart = alone or "=" in words[0]
            code, told = run_apart(words, step.out) if apart else run_here(words, capfd)
            assert (code, len(told)) == (step.code, len(step.err)), told
            assert all(map(like, step.err, told)), told
    assert heading in {step.code for step in steps}
