"""Real processes on this machine, through the launcher: they meet, agree, are preempted, fail."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.multiprocess
ROOT = pathlib.Path(__file__).parents[2]
LAUNCHER = ROOT / "scripts" / "launch_local.py"
WORKER = """
import json, os, pathlib, sys, time
from darts_dist import cluster
from darts_dist.errors import DartsError

def meet(folder):
    import jax, numpy as np
    mesh = cluster.make_mesh(2)
    sharding = jax.NamedSharding(mesh, jax.P("seed"))
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    array = jax.make_array_from_callback((4, 2), sharding, lambda index: values[index])
    found = {
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "mesh": list(mesh.devices.shape),
        "block": repr(cluster.local_block(mesh, 4, 16)),
        "gathered": jax.device_get(cluster.gather([array]))[0].tolist(),
        "pool": os.environ["NPROC"],
    }
    write(folder, found)
    cluster.check_same("equal", "the config")

def differ(folder):
    import jax
    cluster.check_same(str(jax.process_index() == 1), "the config")

def run(folder):
    preemption = cluster.Preemption()
    for step in range(3000):
        if preemption.requested(step):
            write(folder, {"left": step})
            cluster.leave()
            os._exit(75)
        if step == 5:
            write(folder, {"pid": os.getpid()})
        time.sleep(0.01)

def fail(folder):
    if os.environ["DARTS_PROCESS_ID"] == "1":
        os._exit(2)
    time.sleep(100)

def die(folder):
    if os.environ["DARTS_PROCESS_ID"] == "1":
        os.abort()
    time.sleep(100)

def write(folder, found):
    path = pathlib.Path(folder) / f"{os.environ['DARTS_PROCESS_ID']}.json"
    path.with_suffix(".new").write_text(json.dumps(found))
    path.with_suffix(".new").replace(path)

try:
    if sys.argv[1] not in ("fail", "die"):
        cluster.start(heartbeat_timeout_s=10)
    globals()[sys.argv[1]](sys.argv[2])
    cluster.leave()
except DartsError as error:
    print(error, flush=True)
    os._exit(error.exit_code)
"""


def command(tmp_path, processes, devices, what):
    (tmp_path / "worker.py").write_text(WORKER)
    return [
        *(sys.executable, str(LAUNCHER), "--processes", str(processes)),
        *("--devices-per-process", str(devices), "--logs", str(tmp_path / "logs")),
        *("--grace", "2", "--", "python", str(tmp_path / "worker.py"), what, str(tmp_path)),
    ]


def environment():
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return {**inherited, "PYTHONPATH": str(ROOT)}


def launch(tmp_path, processes, devices, what):
    """Returns the launcher's exit code and what it and process 0 said."""
    done = subprocess.run(
        command(tmp_path, processes, devices, what),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("processes", "devices", "blocks"),
    [
        (1, 4, ["((0, 1, 2, 3), slice(0, 16, None))"]),
        (2, 2, ["((0, 1), slice(0, 16, None))", "((2, 3), slice(0, 16, None))"]),
        (
            *(4, 1),
            [
                *("((0, 1), slice(0, 8, None))", "((0, 1), slice(8, 16, None))"),
                *("((2, 3), slice(0, 8, None))", "((2, 3), slice(8, 16, None))"),
            ],
        ),
    ],
)
def test_processes_meet_on_one_mesh(tmp_path, processes, devices, blocks):
    code, said = launch(tmp_path, processes, devices, "meet")
    assert code == 0, said
    for number in range(processes):
        found = json.loads((tmp_path / f"{number}.json").read_text())
        assert found["block"] == blocks[number]
        assert (found["processes"], found["devices"]) == (processes, 4)
        assert found["mesh"] == [2, 2]
        assert found["gathered"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
        assert found["pool"] == "4"
        assert f"process {number} done" in said


def test_a_process_with_another_config_is_named_by_all(tmp_path):
    code, said = launch(tmp_path, 2, 1, "differ")
    assert code == 2
    for number in range(2):
        log = (tmp_path / "logs" / f"process-{number}.log").read_text()
        assert "the config of process 1 differs from that of process 0" in log
    assert "process 1 failed: bad input" in said


@pytest.mark.parametrize(("what", "code"), [("fail", 2), ("die", 4)])
def test_when_one_ends_badly_the_others_are_ended(tmp_path, what, code):
    begun = time.monotonic()
    found, said = launch(tmp_path, 2, 1, what)
    assert found == code, said
    assert "process 0 died by SIGTERM" in said
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole", [True, False])
def test_a_signal_makes_all_processes_leave_at_one_step(tmp_path, number, whole):
    launcher = subprocess.Popen(
        command(tmp_path, 2, 1, "run"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    paths = [tmp_path / "0.json", tmp_path / "1.json"]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pid = launcher.pid if whole else json.loads(paths[1].read_text())["pid"]
    os.kill(pid, number)
    assert launcher.wait(timeout=60) == 75
    steps = [json.loads(path.read_text())["left"] for path in paths]
    assert steps[0] == steps[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--processes", "2", "--devices-per-process", "1"],
        ["--processes", "0", "--devices-per-process", "1", "--", "python"],
        ["--processes", "2", "--", "python"],
        ["--processes", "1", "--devices-per-process", "1", "--", "no-such-program"],
    ],
)
def test_a_command_line_that_makes_no_sense_ends_with_2(arguments):
    done = subprocess.run([sys.executable, str(LAUNCHER), *arguments], capture_output=True)
    assert done.returncode == 2
