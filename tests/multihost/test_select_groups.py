"""`select` with its trainings side by side, as real processes on groups of devices."""

import json
import os
import signal
import subprocess
import sys
import time

import launching
import pytest

from darts_dist import apart, cli, config, genotype
from darts_dist.apart import Host
from darts_dist.errors import ConfigError

CELL = [["skip_connect", 0], ["max_pool_3x3", 1]]
OTHER = [["max_pool_3x3", 0], ["skip_connect", 1]]
SIZES = (
    "network.channels=2",
    "network.layers=1",
    "network.stem=imagenet",
    "data.global_batch=16",
    "data.train_limit=64",
    "data.cutout_px=0",
    "regularisation.auxiliary_weight=0",
    "evaluation.examples=32",
    "log.every_steps=1",
    "schedule.epochs=1",
    "selection.random_cells=0",
)


@pytest.fixture
def searched(tmp_path):
    """The folder of a search that found two cells."""
    return folder_of(tmp_path / "searched")


def folder_of(folder):
    folder.mkdir()
    small = ("data.train_limit=64", "data.global_batch=16", "network.stem=imagenet")
    (folder / "config.toml").write_text(config.dump(config.load(None, small)))
    seeds = []
    for seed, cell in ((3, CELL), (4, OTHER)):
        value = {"normal": cell, "normal_concat": [2], "reduce": cell, "reduce_concat": [2]}
        assert genotype.from_dict(value, "cnn")
        seeds.append({"seed": seed, "status": "completed", "genotype": value})
    (folder / "result.json").write_text(json.dumps({"seeds": seeds}))
    return folder


def select(folder, *changes):
    return [sys.executable, "-m", "darts_dist", "select", str(folder), *SIZES, *changes]


def done(command):
    return subprocess.run(command, env=launching.environment(), capture_output=True, text=True)


def digests(folder):
    names = ("seed-3", "seed-4")
    found = [json.loads((folder / "select" / name / "result.json").read_text()) for name in names]
    return [one["state_digest"] for one in found]


def trainings(folder):
    """Returns the numbers of the processes that train below a folder."""
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{number}/cmdline", "rb") as file:
                words = file.read().decode().split("\0")
        except OSError:
            continue
        if "train" in words and any(word.startswith(str(folder)) for word in words):
            found.append(int(number))
    return found


@pytest.mark.multiprocess
def test_cells_on_groups_of_devices_are_those_that_are_trained_in_turn(searched, tmp_path):
    alone = folder_of(tmp_path / "alone")
    assert done(select(alone, "cluster.cpu_devices=1")).returncode == 0
    ended = done(select(searched, "cluster.cpu_devices=2"))
    assert ended.returncode == 0, ended.stderr
    lines = [line.split(",")[0] for line in ended.stderr.splitlines() if line.startswith("seed-")]
    assert set(lines[:2]) == {"seed-3: training", "seed-4: training"}
    assert set(lines[2:]) == {"seed-3: done", "seed-4: done"}
    assert digests(searched) == digests(alone)
    for name in ("selection.json", "genotype.json"):
        assert (searched / name).read_text() == (alone / name).read_text()
    again = done(select(searched, "cluster.cpu_devices=2"))
    assert again.returncode == 0 and "training" not in again.stderr


@pytest.mark.multiprocess
def test_hosts_share_the_cells(searched, tmp_path):
    alone = folder_of(tmp_path / "alone")
    assert done(select(alone, "cluster.cpu_devices=1")).returncode == 0
    ended = done(launching.launcher(2, 1, select(searched), "--logs", str(tmp_path / "logs")))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = [(tmp_path / "logs" / f"process-{one}.log").read_text() for one in (0, 1)]
    assert [["seed-3: done" in one, "seed-4: done" in one] for one in told] == [
        [True, False],
        [False, True],
    ]
    assert digests(searched) == digests(alone)
    assert json.loads((searched / "selection.json").read_text())["best_seed"] in (3, 4)


@pytest.mark.multiprocess
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_trainings_end_with_the_process_that_started_them(searched, number):
    long = ("cluster.cpu_devices=2", "schedule.epochs=10000")
    with launching.running(select(searched, *long)) as process:
        logs = [searched / "select" / name / "epochs.jsonl" for name in ("seed-3", "seed-4")]
        deadline = time.monotonic() + 120
        while not all(log.exists() and log.read_text().count("\n") > 1 for log in logs):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        assert len(trainings(searched)) == 2
        process.send_signal(number)
        code = process.wait(60)
    if number != signal.SIGKILL:
        assert code == 75
        for log in logs:
            assert any((log.parent / "checkpoints").iterdir())
    deadline = time.monotonic() + 5
    while trainings(searched):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.multiprocess
def test_a_training_that_fails_is_named_and_the_others_leave(searched):
    (searched / "select" / "seed-4").mkdir(parents=True)
    (searched / "select" / "seed-4" / "checkpoints").write_text("no folder")
    ended = done(select(searched, "cluster.cpu_devices=2", "schedule.epochs=10000"))
    assert ended.returncode in (2, 5)
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("darts-dist: error: the training of seed-4 failed: ")
    assert not trainings(searched)


@pytest.mark.multiprocess
def test_more_groups_than_devices_are_refused(searched):
    ended = done(select(searched, "cluster.cpu_devices=2", "selection.groups=3"))
    assert ended.returncode == 2
    assert ended.stderr == (
        "darts-dist: error: selection.groups=3 does not fit 1 x 2 devices of platform cpu; use 0 "
        "to have it chosen, 1 to train one cell after the other\n"
    )


@pytest.mark.parametrize(
    ("asked", "host", "hosts", "cells", "groups"),
    [
        (0, Host("gpu", 8), 1, 5, 5),
        (0, Host("gpu", 2), 1, 5, 2),
        (0, Host("gpu", 8), 2, 5, 3),
        (0, Host("cpu", 1), 4, 2, 1),
        (4, Host("gpu", 8), 2, 5, 2),
        (0, Host("tpu", 4), 1, 5, 1),
    ],
)
def test_there_are_as_many_groups_as_cells_and_devices_allow(asked, host, hosts, cells, groups):
    assert apart.groups_of_host(asked, host, hosts, cells) == groups


@pytest.mark.parametrize(
    ("asked", "host", "hosts"), [(9, Host("gpu", 8), 1), (3, Host("gpu", 8), 2)]
)
def test_groups_that_do_not_fit_the_hosts_are_refused(asked, host, hosts):
    with pytest.raises(ConfigError, match=f"selection.groups={asked} does not fit"):
        apart.groups_of_host(asked, host, hosts, 5)


def test_each_group_sees_its_own_gpus(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,9")
    found = apart.environments(Host("gpu", 5), 2)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["4,5", "6,7"]
    assert all("SLURM_NTASKS" not in one for one in found)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    found = apart.environments(Host("gpu", 4), 4)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["0", "1", "2", "3"]


@pytest.mark.multiprocess
@pytest.mark.parametrize("processes", [1, 2])
def test_a_search_goes_on_to_select_its_cell(tmp_path, processes):
    words = [one for one in SIZES if not one.startswith(("data.train_limit", "selection"))]
    command = launching.search(
        tmp_path / "run",
        "data.train_limit=64",
        "data.global_batch=16",
        "schedule.steps_per_epoch=2",
        "schedule.epochs=1",
        "select=true",
        f"select_with={json.dumps(words)}",
    )
    command.append("--json")
    if processes > 1:
        command = launching.launcher(processes, 1, command)
    ended = done(command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert [one["verb"] for one in found] == ["search", "select"]
    assert {one["cell"] for one in found[1]["cells"]} == {"seed-0", "random-0"}
    assert (tmp_path / "run" / "selection.json").exists()


def test_what_select_would_refuse_is_told_before_the_search(tmp_path, capsys):
    words = ["search", str(launching.ROOT / "configs" / "tiny.toml"), "select=true"]
    words += ['select_with=["schedule.epoch=2"]', "--workdir", str(tmp_path / "run")]
    assert cli.main(words) == 2
    assert "select_with: schedule.epoch is not a key" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.multiprocess
@pytest.mark.parametrize(("victims", "wanted"), [((0, 1), [75, 75]), ((1,), [4, 4])])
def test_hosts_that_are_told_to_leave_wait_for_the_others_but_not_for_long(
    searched, tmp_path, victims, wanted
):
    command = select(searched, "schedule.epochs=10000", "cluster.heartbeat_timeout_s=5")
    with launching.Plain(tmp_path / "said", [command] * 2) as run:
        logs = [searched / "select" / name / "epochs.jsonl" for name in ("seed-3", "seed-4")]
        deadline = time.monotonic() + 120
        while not all(log.exists() and log.read_text().count("\n") > 1 for log in logs):
            assert time.monotonic() < deadline, run.said(0)
            time.sleep(0.1)
        for victim in victims:
            run.processes[victim].send_signal(signal.SIGTERM)
        codes = run.codes(60)
        assert codes == wanted, [run.said(number) for number in range(2)]
    assert not trainings(searched)
