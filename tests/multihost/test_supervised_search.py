"""Searches under the launcher: hosts that are lost, a launcher that is killed, Ctrl-C."""

import contextlib
import json
import os
import shutil
import signal
import subprocess

import launching
import pytest

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow, pytest.mark.timeout(600)]
LONG = ("schedule.steps_per_epoch=4000", "log.every_steps=2", "checkpoint.every_steps=10")

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("ip") is None
    or subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0,
    reason="makes network namespaces: takes root and the program ip",
)


@contextlib.contextmanager
def two_hosts():
    """Two network namespaces on a bridge; yields their names and the bridge's link to the second.

    A bridge keeps the first host's link up when the second's goes down, as a switch does.
    """
    own = f"{os.getpid() % 10000:04d}"
    bridge, names = f"ddbr{own}", [f"dd{own}a", f"dd{own}b"]

    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for number, name in enumerate(names, start=1):
            ip("netns", "add", name)
            ip(
                *("link", "add", f"{name}p", "master", bridge, "type", "veth"),
                *("peer", "name", "eth0", "netns", name),
            )
            ip("link", "set", f"{name}p", "up")
            ip("-n", name, "address", "add", f"10.213.{int(own) % 250}.{number}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                ip("-n", name, "link", "set", link, "up")
        yield names, f"{names[1]}p"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name])
        subprocess.run(["ip", "link", "delete", bridge])


@needs_namespaces
def test_a_lost_host_is_seen_and_the_search_ends_on_the_other(tmp_path, record_property):
    workdir = tmp_path / "run"
    sizes = ("schedule.epochs=1", "schedule.steps_per_epoch=400", "checkpoint.every_steps=20")
    with two_hosts() as (names, link):
        options = ("--namespaces", ",".join(names), "--max-restarts", "1", "--elastic")
        command = launching.launcher(2, 1, launching.search(workdir, *sizes), *options)
        with launching.running(command) as process:
            launching.until(lambda: launching.newest(workdir) or process.poll() is not None, 180)
            watch = launching.Watch(record_property, workdir)
            subprocess.run(["ip", "link", "set", link, "down"], check=True)
            lost = f"host {names[1]} does not answer"
            launching.until(lambda: any(lost in text for _, text in launching.told(workdir)))
            watch.seen()
            watch.lost()
            assert process.wait(300) == 0
    said = [text for _, text in launching.told(workdir)]
    assert f"start 2: 1 process x 2 CPU devices on {names[0]}" in said
    result = json.loads((workdir / "result.json").read_text())
    assert result["devices"]["processes"] == 1
    assert len(result["resumed_from"]) == 1 and result["resumed_from"][0] > 0


def test_a_launcher_that_is_killed_or_interrupted_leaves_a_run_that_resumes(
    tmp_path, record_property
):
    workdir = tmp_path / "run"
    command = launching.launcher(2, 1, launching.search(workdir, *LONG), "--max-restarts", "5")
    with launching.running(command) as process:
        launching.until(lambda: launching.newest(workdir) or process.poll() is not None, 180)
        workers = launching.children(process.pid)
        assert len(workers) == 2
        watch = launching.Watch(record_property, workdir)
        process.kill()
        launching.until(lambda: not any(launching.alive(pid) for pid in workers), 5)
        watch.seen()
        watch.lost()
    kept = launching.newest(workdir)
    with launching.running(command) as process:
        launching.until(lambda: launching.newest(workdir) > kept or process.poll() is not None, 180)
        workers = launching.children(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(180) == 75  # a loaded machine saves slowly
        assert not any(launching.alive(pid) for pid in workers)
    assert f"resumed from step {kept}" in (workdir / "log.txt").read_text()
    said = [
        (workdir / "processes" / f"process-{number}.log").read_text().splitlines()[-1]
        for number in range(2)
    ]
    left = f"darts-dist: stopped at step {launching.newest(workdir)}, and the state is saved"
    assert all(line.startswith(left) for line in said)
