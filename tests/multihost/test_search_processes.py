"""Searches by the launcher: however the devices are split over processes, and however often the run
is killed, the state at the end has the same bits."""

import json
import os
import random
import signal
import sys
import time

import launching
import pytest

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(1200)]
SIZES = (
    "network.nodes=1",
    "network.channels=2",
    "method.preset=darts_first",
    "schedule.steps_per_epoch=32",
    "cluster.heartbeat_timeout_s=10",
)


def command(workdir, processes, devices, *options, words=()):
    config = str(launching.ROOT / "configs" / "tiny.toml")
    search = [sys.executable, "-m", "darts_dist", "search", config, *SIZES, *words]
    return launching.launcher(processes, devices, [*search, "--workdir", str(workdir)], *options)


def finish(workdir, processes, devices, *options, words=()):
    """Returns the result of a run that is left alone."""
    with launching.running(command(workdir, processes, devices, *options, words=words)) as process:
        assert process.wait(600) == 0
    return result(workdir)


def result(workdir):
    return json.loads((workdir / "result.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("alone") / "run", 1, 8)


@pytest.mark.parametrize(
    ("processes", "devices"), [(2, 4), pytest.param(4, 2, marks=pytest.mark.slow)]
)
def test_devices_split_over_processes_end_as_eight_of_one(alone, tmp_path, processes, devices):
    split = finish(tmp_path / "run", processes, devices)
    assert split["state_digest"] == alone["state_digest"]
    assert split["devices"]["processes"] == processes
    assert split["devices"]["mesh"] == alone["devices"]["mesh"] == {"seed": 2, "data": 4}


@pytest.mark.slow
def test_four_seeds_on_two_processes_are_those_of_single_runs(tmp_path):
    four = finish(tmp_path / "four", 2, 2, words=("seeds.count=4", "mesh.data=2"))
    assert four["devices"]["mesh"] == {"seed": 2, "data": 2}
    for one in four["seeds"]:
        words = (f"seeds.first={one['seed']}", "seeds.count=1", "mesh.seed=1", "mesh.data=2")
        single = finish(tmp_path / str(one["seed"]), 1, 4, words=words)
        assert single["seeds"] == [one]


def starts(workdir):
    """How often the launchers of a run have started its processes."""
    path = workdir / "processes" / "launcher.log"
    return path.read_text().count(": start ") if path.exists() else 0


def kill_one(launcher, workdir, draw):
    """Kills a random process of the launcher's at a random moment: soon after a new checkpoint, or,
    in a run that has none yet, maybe sooner."""
    begun, before = launching.newest(workdir), starts(workdir)
    if not begun and draw.random() < 0.5:
        time.sleep(draw.uniform(0.5, 10))
    else:
        launching.until(
            lambda: launching.newest(workdir) > begun or launcher.poll() is not None, 300, 0.002
        )
        time.sleep(draw.uniform(0, 0.3))
    os.kill(draw.choice(launching.children(launcher.pid)), signal.SIGKILL)
    launching.until(lambda: starts(workdir) > before or launcher.poll() is not None)


@pytest.mark.slow
def test_killed_five_times_at_random_moments_it_ends_as_left_alone(alone, tmp_path):
    """Three times two processes go on as two, then one with all the devices does, and again."""
    seed = random.SystemRandom().randrange(2**32)
    draw, workdir = random.Random(seed), tmp_path / "run"
    with launching.running(command(workdir, 2, 4, "--max-restarts", "3")) as launcher:
        for _ in range(3):
            kill_one(launcher, workdir, draw)
        begun = launching.newest(workdir)
        launching.until(lambda: launching.newest(workdir) > begun, 300)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(120) == 75, f"seed {seed}"
    options = ("--max-restarts", "2", "--elastic")
    with launching.running(command(workdir, 2, 4, *options)) as launcher:
        for _ in range(2):
            kill_one(launcher, workdir, draw)
        assert launcher.wait(600) == 0, f"seed {seed}"
    said = [text for _, text in launching.told(workdir)]
    assert sum("was killed by SIGKILL" in text for text in said) == 5
    assert said.count("start 2: 1 process x 8 CPU devices") == 1
    found = result(workdir)
    assert found["state_digest"] == alone["state_digest"], f"seed {seed}"
    assert sum(step > 0 for step in found["resumed_from"]) >= 3
    assert found["devices"]["processes"] == 1
