"""Searches by the launcher: however the devices are split over processes, and however often the run
is killed, the state at the end has the same bits."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(900)]
ROOT = pathlib.Path(__file__).parents[2]
SIZES = (
    "network.nodes=1",
    "network.channels=2",
    "method.preset=darts_first",
    "schedule.steps_per_epoch=16",
)


def command(workdir, processes, devices):
    launcher = [str(ROOT / "scripts" / "launch_local.py"), "--processes", str(processes)]
    search = ["-m", "darts_dist", "search", "configs/tiny.toml", *SIZES, "--workdir", str(workdir)]
    split = ["--devices-per-process", str(devices)]
    return [sys.executable, *launcher, *split, "--", sys.executable, *search]


def run(workdir, processes, devices):
    done = subprocess.run(
        command(workdir, processes, devices), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((workdir / "result.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone") / "run", 1, 8)


def test_two_processes_of_four_devices_end_as_one_of_eight(alone, tmp_path):
    split = run(tmp_path / "run", 2, 4)
    assert split["state_digest"] == alone["state_digest"]
    assert split["devices"]["processes"] == 2
    assert split["devices"]["mesh"] == alone["devices"]["mesh"] == {"seed": 2, "data": 4}


def newest(workdir):
    """The newest finished checkpoint's step, 0 without any."""
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.exists() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


@pytest.mark.slow
def test_killed_five_times_at_random_moments_it_ends_as_left_alone(alone, tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    workdir, resumable = tmp_path / "run", 0
    for kill in range(5):
        process = subprocess.Popen(
            command(workdir, 1, 8),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        begun = newest(workdir)
        if kill >= 2:  # past a further checkpoint; before that, anywhere from the start on
            while newest(workdir) <= begun and process.poll() is None:
                time.sleep(0.002)
        time.sleep(draw.uniform(0, 12 if kill < 2 else 0.2))
        for worker in children(process.pid):
            os.kill(worker, signal.SIGKILL)
        assert process.wait(60) != 0, f"the run ended before the kill; seed {seed}"
        resumable += newest(workdir) > 0
    result = run(workdir, 1, 8)
    assert result["state_digest"] == alone["state_digest"], f"seed {seed}"
    assert resumable >= 2
    assert any(step > 0 for step in result["resumed_from"])


def children(parent):
    """The processes that a process started."""
    found = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in found.split()]
