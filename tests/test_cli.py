"""The command line: what it prints, what it refuses, and with which code it ends."""

import dataclasses
import errno
import json
import subprocess
import sys

import pytest

from darts_dist import cli, config, ending
from darts_dist.errors import (
    ClusterError,
    ConfigError,
    DivergedError,
    InputError,
    Interrupted,
    StorageError,
)


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )


def one_line_error(capsys):
    captured = capsys.readouterr()
    assert captured.err.startswith("darts-dist: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_print_shows_the_config_that_would_run(capsys):
    assert cli.main(["search", "configs/tiny.toml", "seeds.count=4", "--print"]) == 0
    shown = config.parse(capsys.readouterr().out, "shown")
    assert shown == config.load("configs/tiny.toml", ["seeds.count=4"])


def test_without_a_config_the_packaged_sample_runs(capsys):
    assert cli.main(["search", "--print"]) == 0
    assert config.parse(capsys.readouterr().out, "shown") == config.load(None)


def test_options_may_stand_anywhere(capsys):
    assert cli.main(["--print", "search", "--debug", "seeds.first=7", "--json"]) == 0
    assert config.parse(capsys.readouterr().out, "shown").seeds.first == 7


def test_help_lists_every_knob_and_every_option(capsys):
    assert cli.main(["search", "--help"]) == 0
    page = capsys.readouterr().out
    assert config.describe() in page
    for option in ("--help", "--print", "--json", "--workdir DIR", "--debug", "--version"):
        assert option in page
    assert max(map(len, page.splitlines())) <= 110


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_every_knob_it_takes(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    page = capsys.readouterr().out
    for struct in cli.VERBS[verb].structs.values():
        assert config.describe(struct) in page


@pytest.mark.parametrize("kind", ("cnn", "rnn"))
@pytest.mark.parametrize("words", (["search"], ["train"], ["plan", "topology=v5e:4x4"]), ids=str)
def test_what_is_printed_is_a_config_that_prints_itself(words, kind, tmp_path, capsys):
    assert cli.main([*words, f"space.kind={kind}", "name=mine", "--print"]) == 0
    shown = capsys.readouterr().out
    (tmp_path / "mine.toml").write_text(shown)
    assert cli.main([words[0], str(tmp_path / "mine.toml"), "--print"]) == 0
    assert capsys.readouterr().out == shown


def test_help_without_a_verb_lists_the_verbs(capsys):
    assert cli.main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(verb in page for verb in cli.VERBS)


def test_version_is_told(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "darts-dist 0.1.0\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no verb"),
        (["serch"], "serch is not a verb; did you mean search?"),
        (["search", "data.gobal_batch=8"], "did you mean data.global_batch?"),
        (["search", "nowhere.toml"], "nowhere.toml does not exist"),
        (["search", "data.global_batch"], "write data.global_batch=VALUE"),
        (["search", "configs/tiny.toml", "x"], "x is neither the config file"),
        (["search", "--wrkdir", "x"], "unrecognized arguments: --wrkdir"),
        (["search", "--workdir"], "expected one argument"),
        (["search", "--workdir", "pyproject.toml"], "cannot be a folder: File exists"),
        (["search", "--workdir", "pyproject.toml/run"], "cannot be a folder: Not a directory"),
    ],
)
def test_a_bad_command_line_is_one_line_and_code_2(words, message, capsys):
    assert cli.main(words) == 2
    assert message in one_line_error(capsys)


def test_debug_shows_the_traceback_too(capsys):
    assert cli.main(["search", "nowhere.toml", "--debug"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.splitlines()[-1].startswith("darts-dist: error: nowhere.toml")


def test_debug_means_one_device_and_few_steps_unless_said_otherwise(capsys):
    words = ["search", "configs/tiny.toml", "--debug", "--print", "schedule.steps_per_epoch=2"]
    assert cli.main(words) == 0
    shown = config.parse(capsys.readouterr().out, "shown")
    assert (shown.mesh.seed, shown.mesh.data, shown.seeds.count) == (1, 1, 1)
    assert (shown.schedule.epochs, shown.schedule.steps_per_epoch) == (1, 2)
    assert shown.cluster.cpu_devices == 1


def test_several_processes_need_a_folder_that_is_named(monkeypatch, capsys):
    monkeypatch.setenv("DARTS_COORDINATOR", "localhost:1234")
    monkeypatch.setenv("DARTS_NUM_PROCESSES", "2")
    monkeypatch.setenv("DARTS_PROCESS_ID", "0")
    assert cli.main(["search"]) == 2
    assert "--workdir" in one_line_error(capsys)


def test_default_folders_of_one_second_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli._open_workdir(None, "x") != cli._open_workdir(None, "x")


def fail(error):
    def run():
        raise error

    return run


def full_disk():
    with open("/dev/full", "w") as file:
        file.write("x")
        file.flush()


GLOO = "UNKNOWN: Gloo all-reduce failed: [gloo/transport/tcp/pair.cc:547] Connection closed by peer"
FULL = (
    'RESOURCE_EXHAUSTED: Error writing "a/0.0": No space left on device [os_error_code="28"]\nmore'
)


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (lambda: 0, 0),
        (fail(ConfigError("x = 1; wanted 2")), 2),
        (fail(DivergedError("all seeds")), 3),
        (fail(ClusterError("peer")), 4),
        (fail(ValueError(GLOO)), 4),
        (fail(RuntimeError("DEADLINE_EXCEEDED: barrier timed out")), 4),
        (fail(StorageError("full")), 5),
        (full_disk, 5),
        (fail(OSError(errno.EROFS, "Read-only file system")), 5),
        (fail(ValueError(FULL)), 5),
        (fail(Interrupted("saved at step 4")), 75),
        (fail(KeyboardInterrupt()), 75),
        (fail(BrokenPipeError(errno.EPIPE, "Broken pipe")), 75),
        (fail(SystemExit(7)), 7),
        (fail(SystemExit()), 0),
    ],
)
def test_each_way_to_end_has_its_code_and_at_most_one_line(run, code, capsys):
    assert ending.outcome(run) == code
    assert capsys.readouterr().err.count("\n") <= 1


def test_the_cause_of_an_error_counts():
    try:
        try:
            full_disk()
        except OSError as error:
            raise RuntimeError("saving failed") from error
    except RuntimeError as error:
        assert isinstance(ending.classify(error), StorageError)


@pytest.mark.parametrize(
    "found",
    (
        "Out of memory allocating 1 bytes",
        "Failed to allocate request for 1B (1B) on device ordinal 0",
    ),
)
def test_out_of_memory_is_not_a_full_disk(found):
    error = RuntimeError(f"RESOURCE_EXHAUSTED: {found}")
    assert isinstance(ending.classify(error), InputError)


def test_a_mistake_of_ours_leaves_its_traceback_in_the_log(tmp_path, capsys):
    (tmp_path / "log.txt").write_text("step 1\n")
    assert ending.outcome(fail(ZeroDivisionError("by\nzero")), workdir=str(tmp_path)) == 1
    told = one_line_error(capsys)
    assert "internal error: ZeroDivisionError: by zero; traceback in" in told
    assert str(tmp_path / "log.txt") in told
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("step 1\nTraceback")
    assert "ZeroDivisionError" in log


def test_a_mistake_before_there_is_a_folder_shows_its_traceback(capsys):
    assert ending.outcome(fail(ZeroDivisionError("zero"))) == 1
    assert "Traceback" in capsys.readouterr().err


def test_finish_leaves_at_once_with_everything_written():
    done = python(
        "import atexit, threading, time; from darts_dist.ending import finish\n"
        "atexit.register(time.sleep, 100)\n"
        "threading.Thread(target=time.sleep, args=(100,)).start()\n"
        "print('written'); finish(lambda: 3)"
    )
    assert (done.returncode, done.stdout) == (3, "written\n")


def test_the_process_starts_again_once_with_huge_pages():
    code = (
        "import os; from darts_dist import cli; cli.use_huge_pages();"
        "print(os.getpid(), os.environ['GLIBC_TUNABLES'])"
    )
    started = python(code, GLIBC_TUNABLES="glibc.malloc.arena_max=4")
    assert started.stdout.endswith("glibc.malloc.arena_max=4:glibc.malloc.hugetlb=1\n")
    kept = python(code, GLIBC_TUNABLES="glibc.malloc.hugetlb=0")
    assert kept.stdout.endswith(" glibc.malloc.hugetlb=0\n")


def test_the_module_is_the_console_script():
    command = [sys.executable, "-m", "darts_dist", "search", "--print", "seeds.count=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "darts-dist: error: seeds.count = 0; wanted whole number >= 1\n"


def test_a_page_may_be_cut_short_by_its_reader():
    code = (
        "import sys, time; from darts_dist import cli, ending\n"
        "sys.stdin.read(); ending.finish(lambda: cli.main(['search', '--help']))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


RESULT = {
    "status": "completed",
    "seeds": [
        {
            "seed": 3,
            "status": "completed",
            "genotype": {
                "space": "cnn",
                "normal": [["sep_conv_3x3", 0], ["skip_connect", 1]],
                "normal_concat": [2],
                "reduce": [["max_pool_3x3", 0], ["none", 1]],
                "reduce_concat": [2],
            },
            "train_loss": 1.5,
            "valid_loss": 1.23456,
            "valid_accuracy": 43.21,
        },
        {"seed": 4, "status": "diverged", "genotype": None, "valid_loss": None},
    ],
    "best_seed": 3,
}


def test_the_summary_tells_cells_scores_the_best_and_the_place():
    assert cli.summary(RESULT, "runs/x").splitlines() == [
        "seed 3: completed, train loss 1.5, valid loss 1.235, valid accuracy 43.21 %",
        "  normal: sep_conv_3x3 0, skip_connect 1",
        "  reduce: max_pool_3x3 0, none 1",
        "seed 4: diverged",
        "best: seed 3",
        "run: runs/x",
    ]


@pytest.fixture
def verb(tmp_path, monkeypatch):
    """A verb of its own, `count`, whose module lies in a folder and divides by seeds.first."""
    (tmp_path / "verb_for_a_test.py").write_text(
        "def run(config, workdir, debug):\n"
        "    print('working')\n"
        "    return {'seeds': [], 'debug': debug, 'share': 1 / config.seeds.first}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    verb = dataclasses.replace(cli.VERBS["search"], module="verb_for_a_test")
    monkeypatch.setitem(cli.VERBS, "count", verb)
    return "count"


def test_json_is_the_last_line_and_says_where_the_run_is(verb, tmp_path, capsys):
    workdir = str(tmp_path / "deep" / "run")
    assert cli.main([verb, "seeds.first=4", "--json", "--workdir", workdir]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"seeds": [], "debug": False, "share": 0.25, "workdir": workdir}


def test_without_json_a_summary_is_printed(verb, tmp_path, capsys):
    assert cli.main([verb, "seeds.first=4", "--workdir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"working\nrun: {tmp_path}\n"


def test_a_verb_that_breaks_leaves_its_traceback_in_its_run(verb, tmp_path, capsys):
    assert cli.main([verb, "seeds.first=0", "--workdir", str(tmp_path)]) == 1
    assert str(tmp_path / "log.txt") in one_line_error(capsys)
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text()
