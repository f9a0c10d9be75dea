"""Runs whose folder is in a store of objects, where nothing can be appended to or renamed."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request

import launching
import pytest

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow, pytest.mark.timeout(600)]
STORE = pathlib.Path(__file__).parent.parent / "object_store.py"
SIZES = ("schedule.steps_per_epoch=60", "checkpoint.every_steps=10", "log.every_steps=5")


class Store:
    """The store while a test runs, and how processes are told of it."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([sys.executable, str(STORE), str(port)])
        self.environment = {
            "STORAGE_EMULATOR_HOST": self.address,
            "TENSORSTORE_GCS_HTTP_URL": self.address,
        }
        launching.until(self.answers, 30, 0.1)

    def answers(self):
        try:
            return self.names("") is not None
        except OSError:
            return False

    def get(self, path):
        with urllib.request.urlopen(f"{self.address}{path}", timeout=10) as answer:
            return answer.read()

    def names(self, prefix):
        """Returns the names of the objects that begin so."""
        query = urllib.parse.urlencode({"prefix": prefix})
        found = json.loads(self.get(f"/storage/v1/b/pod/o?{query}"))
        return [one["name"] for one in found.get("items", ())]

    def read(self, name):
        place = urllib.parse.quote(name, safe="")
        return self.get(f"/download/storage/v1/b/pod/o/{place}?alt=media").decode()

    def saved(self):
        """Returns the steps of which something is saved."""
        names = self.names("run/checkpoints/")
        return {int(part) for name in names if (part := name.split("/")[2]).isdecimal()}


@pytest.fixture
def store():
    made = Store()
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def begin(store, tmp_path, processes):
    """Starts so many processes of a search whose run folder is in the store."""
    command = launching.search("gs://pod/run", *SIZES)
    return launching.Plain(
        tmp_path / "said", [command] * processes, [store.environment] * processes
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_in_a_store_of_objects_survives_a_kill(store, tmp_path, processes):
    local = tmp_path / "local"
    commands = [launching.search(local, *SIZES)] * processes
    with launching.Plain(tmp_path / "alone", commands) as run:
        assert run.codes(240) == [0] * processes, run.said(0)
    with begin(store, tmp_path, processes) as run:
        launching.until(lambda: len(store.saved()) > 1 or run.processes[0].poll() is not None, 120)
        run.processes[-1].send_signal(signal.SIGKILL)
        codes = run.codes(60)
        assert codes == [*[4] * (processes - 1), -signal.SIGKILL], run.said(0)
    with begin(store, tmp_path, processes) as run:
        assert run.codes(240) == [0] * processes, run.said(0)
    names = {os.path.basename(name) for name in store.names("run/")}
    assert {"config.toml", "log.txt", "alphas.npz", "genotypes.jsonl", "result.json"} <= names
    found, wanted = json.loads(store.read("run/result.json")), local / "result.json"
    assert found["state_digest"] == json.loads(wanted.read_text())["state_digest"]
    assert len(found["resumed_from"]) == 1 and found["resumed_from"][0] > 0
    assert store.read("run/genotypes.jsonl") == (local / "genotypes.jsonl").read_text()
