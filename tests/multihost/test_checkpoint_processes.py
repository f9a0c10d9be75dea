"""Checkpoints of real processes: saved by some, restored by others; killed while saving."""

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
WORKER = """
import json, os, pathlib, sys, time
import numpy as np
from darts_dist import checkpoint, cluster, packing

what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
cluster.start(heartbeat_timeout_s=10)
import jax
mesh = cluster.make_mesh(2)
sharding = jax.NamedSharding(mesh, jax.P("seed"))

def state(shift, width):
    def leaf(name):
        values = np.arange(2 * width, dtype=np.float32).reshape(2, width) * len(name) + shift
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
    return {"bias": leaf("b"), "kernel": leaf("kernel")}

def write(found):
    path = folder / f"{what}-{os.environ['DARTS_PROCESS_ID']}.json"
    path.with_suffix(".new").write_text(json.dumps(found))
    path.with_suffix(".new").replace(path)

width = 1_000_000 if what == "endless" else 33
checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0, width)
)
if what == "save":
    for step in (2, 4, 6):
        checkpoints.save(step, state(step, width), {"step": step})
    checkpoints.close()
    write({"digest": packing.digests(state(6, width)), "steps": checkpoints.steps()})
elif what == "restore":
    found, meta, step = checkpoints.restore(like)
    write({"digest": packing.digests(found), "meta": meta, "step": step})
else:
    found = checkpoints.restore(like)
    first = found[2] if found else 0
    if found:
        good = packing.digests(found[0]) == packing.digests(state(first, width))
        write({"step": first, "good": good})
    for step in range(first + 1, 100_000):
        checkpoints.save(step, state(step, width), {})
cluster.leave()
os._exit(0)
"""


def launch(tmp_path, processes, devices, what):
    (tmp_path / "worker.py").write_text(WORKER)
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "scripts" / "launch_local.py")),
            *("--processes", str(processes), "--devices-per-process", str(devices)),
            *("--logs", str(tmp_path / "logs"), "--grace", "1"),
            *("--", "python", str(tmp_path / "worker.py"), what, str(tmp_path)),
        ],
        env={**inherited, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(tmp_path, processes, devices, what):
    """Returns what every process found."""
    launcher = launch(tmp_path, processes, devices, what)
    said, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, said
    paths = [tmp_path / f"{what}-{number}.json" for number in range(processes)]
    return [json.loads(path.read_text()) for path in paths]


def test_a_state_saved_by_some_processes_is_restored_by_others(tmp_path):
    saved = finish(tmp_path, 2, 2, "save")
    assert saved[0] == saved[1]
    assert saved[0]["steps"] == [4, 6]
    for processes, devices in [(1, 4), (4, 1), (2, 1)]:
        for found in finish(tmp_path, processes, devices, "restore"):
            assert found == {"digest": saved[0]["digest"], "meta": {"step": 6}, "step": 6}


def test_a_broken_row_makes_all_processes_take_the_one_before(tmp_path):
    finish(tmp_path, 2, 1, "save")
    for path in (tmp_path / "checkpoints" / "6" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-20])
    assert [found["step"] for found in finish(tmp_path, 2, 1, "restore")] == [4, 4]
    assert "checkpoint 6" in (tmp_path / "logs" / "process-0.log").read_text()


def test_killed_while_saving_the_last_complete_one_is_restored(tmp_path):
    steps = [0]
    for wait_s in (0.0, 0.37, 0.71):
        launcher = launch(tmp_path, 2, 1, "endless")
        folder = tmp_path / "checkpoints"
        deadline = time.monotonic() + 60
        while not (folder / str(steps[-1] + 3)).exists():
            assert time.monotonic() < deadline and launcher.poll() is None
            time.sleep(0.01)
        time.sleep(wait_s)
        listed = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True)
        for pid in listed.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        launcher.communicate(timeout=60)
        assert launcher.returncode == 4
        steps.append(max(int(path.name) for path in folder.iterdir() if path.name.isdecimal()))
        if len(steps) > 2:
            for number in range(2):
                found = json.loads((tmp_path / f"endless-{number}.json").read_text())
                assert found == {"step": steps[-2], "good": True}
