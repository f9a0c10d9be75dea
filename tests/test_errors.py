"""docs/errors.md is true: its commands, run on files made here, say what the page says.

A block has commands (`$ ...`), the lines that stderr shows after each, and `(exit code N)`; `...`
stands for figures and places that vary. Lines before `^C` are stdout's, after which Ctrl-C comes; a
line `# ...` says what happens to the files in between. Commands run in this process, but for those
that set the environment and those of blocks marked medium.
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import os
import pathlib
import pickle
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest
from picture_folders import draw, encoded, put, put_numbered
from test_sources import make_archive, make_batch, make_folder

from darts_dist import cli, cluster, config, ending

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "errors.md").read_text()
NOBODY = 65534
SMALL = """\
[space]
operations = ["skip_connect", "avg_pool_3x3"]
[network]
channels = 2
layers = 1
nodes = 1
stem = "imagenet"
[data]
global_batch = 8
train_limit = 64
[seeds]
count = 2
[method]
preset = "darts_first"
[schedule]
epochs = 20
steps_per_epoch = 100
[evaluation]
examples = 8
[checkpoint]
every_steps = 10
[log]
every_steps = 10
[cluster]
cpu_devices = 2
"""


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


# The files that the page's commands name.


def mine(path):
    path.write_text(SMALL)


def flowers(path):
    put_numbered(path, {"roses": 40, "tulips": 40})


def broken_pictures(path):
    flowers(path)
    picture = encoded(draw(size=(64, 64)), "JPEG")
    for name, data in {"cut.jpg": picture[:400], "empty.png": b"", "text.png": b"text"}.items():
        put(path / "tulips" / name, data)


def one_class(path):
    put_numbered(path, {"roses": 40})


def empty_class(path):
    flowers(path)
    (path / "lilies").mkdir()


def few_pictures(path):
    put_numbered(path, {"roses": 3, "tulips": 3})


def cut_archive(path):
    whole = make_archive("cifar10", "binary", path.parent)
    path.write_bytes(whole.read_bytes()[:-100])


def page_archive(path):
    path.write_bytes(b"<html>404 Not Found</html>")


def missing_files(path):
    path.mkdir()
    folder = make_folder("cifar10", "python", path)
    (folder / "data_batch_4").unlink()


def wrong_labels(path):
    path.mkdir()
    folder = make_folder("cifar10", "python", path)
    rows, _ = make_batch("cifar10", "data_batch_1")
    batch = {b"data": rows, b"labels": [1, 2, 10]}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, 3))


def hostile(path):
    path.mkdir()
    folder = make_folder("cifar10", "python", path)
    (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch taken-over'\ntR.")


def run(path):
    path.mkdir()
    (path / "config.toml").write_text(config.dump(config.load(None, ["data.global_batch=64"])))


def damaged_config(path):
    path.mkdir()
    (path / "config.toml").write_text("[network\nchannels = 16\n")


def damaged_result(path):
    path.mkdir()
    (path / "result.json").write_text('{"verb": "sea')


def locked(path):
    path.mkdir()
    path.chmod(0o555)


def full(path):
    path.mkdir()
    (path / "log.txt").symlink_to("/dev/full")


def cells(path):
    path.write_text('{"normal": [["sep_conv_3x4", 0], ["skip_connect", 1]]')


def wrong_cells(path):
    path.write_text(
        "Genotype(normal=[('sep_conv_3x4', 0), ('skip_connect', 1)], normal_concat=[2],"
        " reduce=[('sep_conv_3x3', 0), ('skip_connect', 1)], reduce_concat=[2])"
    )


@contextlib.contextmanager
def listen():
    """Takes the port; nothing is lost when something has it already."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("", 28761)))
        yield


@contextlib.contextmanager
def flip():
    """Flips a bit of each array in the newest checkpoint of `new`."""
    newest = max(pathlib.Path("new/checkpoints").iterdir(), key=lambda path: int(path.name))
    for file in newest.rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    yield


MAKERS = {
    "mine.toml": mine,
    "broken.toml": lambda path: path.write_text('[data\nkind = "sample"\n'),
    "latin.toml": lambda path: path.write_bytes('name = "Blüten"\n'.encode("latin-1")),
    "notes.txt": lambda path: path.write_text("notes\n"),
    "flowers": flowers,
    "broken-pictures": broken_pictures,
    "one-class": one_class,
    "empty-class": empty_class,
    "few-pictures": few_pictures,
    "cut.tar.gz": cut_archive,
    "page.tar.gz": page_archive,
    "missing-files": missing_files,
    "wrong-labels": wrong_labels,
    "hostile": hostile,
    "run": run,
    "damaged-config": damaged_config,
    "damaged-result": damaged_result,
    "locked": locked,
    "full": full,
    "cells.json": cells,
    "cells.txt": wrong_cells,
}
HAPPENINGS = {
    "# a bit of the newest checkpoint flips on the disk": flip,
    "# something else listens on port 28761": listen,
}


# Running them.


@contextlib.contextmanager
def as_nobody():
    """Lays root's rights down for a while: what is locked is locked for root then, too."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


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
        with as_nobody() if "locked" in " ".join(words) else contextlib.nullcontext():
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
    tmp_path.chmod(0o755)
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
