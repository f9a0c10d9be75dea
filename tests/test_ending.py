"""How a process ends when its streams are closed, full, or interrupted at a bad moment."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from darts_dist import cli, ending
from darts_dist.errors import ClusterError, ConfigError, Interrupted

ROOT = pathlib.Path(__file__).parent.parent


def python(code, shell="", **streams):
    """Starts Python on a text, with `finish` at hand, after what a shell does."""
    code = f"from darts_dist.ending import finish\n{code}"
    command = ["sh", "-c", f'{shell} exec "$0" -c "$1"', sys.executable, code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def fail(error):
    def run(*_):
        raise error

    return run


@pytest.mark.parametrize(
    "error", [Interrupted("stopped"), ClusterError("lost"), KeyboardInterrupt()]
)
def test_what_can_go_on_tells_how(error, capsys):
    ending.outcome(fail(error), workdir="x", option="--workdir x")
    assert capsys.readouterr().err.endswith("; start again with --workdir x and it goes on\n")
    ending.outcome(fail(error), workdir="x")
    assert capsys.readouterr().err.endswith("; start again and it goes on\n")


def test_an_interruption_is_no_error(capsys):
    assert ending.outcome(fail(KeyboardInterrupt())) == 75
    assert capsys.readouterr().err == "darts-dist: interrupted\n"


def test_what_would_move_a_terminal_is_written_out(capsys):
    ending.outcome(fail(ConfigError("a\x1b[31mb\nc\udcff")))
    assert capsys.readouterr().err == "darts-dist: error: a\\x1b[31mb c\\udcff\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_lends_its_number_to_no_file(closed, tmp_path):
    code = (
        "def main():\n"
        f"    with open({str(tmp_path / 'x')!r}, 'w') as file:\n"
        "        print('said')\n"
        "        file.write(str(file.fileno() > 2))\n"
        "    return 7\n"
        "finish(main)"
    )
    with python(code, f"exec {closed};") as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (7, "")
    assert (tmp_path / "x").read_text() == "True"


def test_the_code_tells_when_stderr_cannot():
    with open("/dev/full", "w") as full, python("finish(lambda: 1 / 0)", stderr=full) as process:
        process.communicate(timeout=60)
    assert process.returncode == 1


def test_letters_that_a_stream_has_not_are_escaped():
    with python("finish(lambda: print('\\u017elut\\xe1') or 0)") as process:
        out, err = process.communicate(timeout=60)
    assert (out, err) == ("\\u017elut\\xe1\n", "")


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_a_signal_interrupts_even_where_the_shell_had_it_ignored(name):
    code = "import time; finish(lambda: print('here', flush=True) or time.sleep(60))"
    with python(code, f"trap '' {name};") as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.Signals[f"SIG{name}"])
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (75, "darts-dist: interrupted\n")


def test_an_interruption_that_a_callback_swallows_comes_again():
    code = (
        "import gc, signal, time\n"
        "def callback(*_):\n"
        "    gc.callbacks.clear()\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "gc.callbacks.append(callback)\n"
        "finish(lambda: gc.collect() or time.sleep(60))"
    )
    with python(code) as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (75, "darts-dist: interrupted\n")


def test_an_interruption_waits_until_libraries_are_loaded():
    code = (
        "import signal\n"
        "from darts_dist.ending import uninterrupted\n"
        "def main():\n"
        "    with uninterrupted():\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "        print('loaded', flush=True)\n"
        "    print('and on')\n"
        "finish(main)"
    )
    with python(code) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (75, "loaded\n", "darts-dist: interrupted\n")


def test_words_that_are_no_text_are_refused(capsys):
    assert cli.main(["search", "data.path=\udcff"]) == 2
    assert "data.path=\\udcff is not UTF-8 text" in capsys.readouterr().err


def test_a_default_folder_that_stays_empty_is_removed_and_a_named_one_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_run", fail(ConfigError("no data")))
    assert cli.main(["search"]) == 2
    assert list((tmp_path / "runs").iterdir()) == []
    assert cli.main(["search", "--workdir", "mine"]) == 2
    assert (tmp_path / "mine").is_dir()


UNREACHED = """
import sys, types
import gcsfs.retry

async def at_once(seconds):
    pass

gcsfs.retry.asyncio = types.SimpleNamespace(sleep=at_once)  # six times, half a minute in all
from darts_dist import cli
finish(lambda: cli.main({words}))
"""


@pytest.mark.parametrize(
    "words", [("evaluate", "gs://x/y"), ("search", "--workdir", "gs://x/y")], ids=" ".join
)
def test_a_store_that_cannot_be_reached_is_storage_that_failed(words, monkeypatch):
    pytest.importorskip("gcsfs")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")  # where nothing listens
    process = python(UNREACHED.format(words=words))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, len(err.splitlines())) == (5, "", 1), err
    assert "127.0.0.1" in err and "Connect call failed" in err
