"""Real processes without a search: they meet on one mesh, and leave at one step."""

import json
import os
import signal
import sys

import launching
import pytest

pytestmark = pytest.mark.multiprocess
WORKER = """
import json, os, pathlib, sys, time
from darts_dist import agreement, cluster

def meet(folder):
    import jax, numpy as np
    mesh = cluster.make_mesh(2)
    sharding = jax.NamedSharding(mesh, jax.P("seed"))
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    array = jax.make_array_from_callback((4, 2), sharding, lambda index: values[index])
    own = jax.process_index()
    write(folder, {
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "mesh": list(mesh.devices.shape),
        "block": repr(cluster.local_block(mesh, 4, 16)),
        "gathered": jax.device_get(cluster.gather([array]))[0].tolist(),
        "texts": agreement.exchange("\\u00e9" * own),
    })
    agreement.check_same({"a fact": "equal"})

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

def write(folder, found):
    path = pathlib.Path(folder) / f"{os.environ['DARTS_PROCESS_ID']}.json"
    path.with_suffix(".new").write_text(json.dumps(found))
    path.with_suffix(".new").replace(path)

cluster.start(heartbeat_timeout_s=10)
globals()[sys.argv[1]](sys.argv[2])
cluster.leave()
os._exit(0)
"""


def command(tmp_path, processes, devices, what):
    worker = [sys.executable, "-c", WORKER, what, str(tmp_path)]
    return launching.launcher(processes, devices, worker, "--logs", str(tmp_path / "logs"))


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
    with launching.running(command(tmp_path, processes, devices, "meet")) as launcher:
        assert launcher.wait(120) == 0
    for number in range(processes):
        found = json.loads((tmp_path / f"{number}.json").read_text())
        assert found["block"] == blocks[number]
        assert (found["processes"], found["devices"]) == (processes, 4)
        assert found["mesh"] == [2, 2]
        assert found["gathered"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
        assert found["texts"] == ["é" * other for other in range(processes)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole", [True, False])
def test_a_signal_makes_all_processes_leave_at_one_step(tmp_path, number, whole):
    paths = [tmp_path / "0.json", tmp_path / "1.json"]
    with launching.running(command(tmp_path, 2, 1, "run")) as launcher:
        launching.until(lambda: all(path.exists() for path in paths))
        pid = launcher.pid if whole else json.loads(paths[1].read_text())["pid"]
        os.kill(pid, number)
        assert launcher.wait(60) == 75
    steps = [json.loads(path.read_text())["left"] for path in paths]
    assert steps[0] == steps[1]
