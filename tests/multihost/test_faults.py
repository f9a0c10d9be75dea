"""Searches of two processes that no launcher watches, and what becomes of them in any fault."""

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import time

import launching
import pytest

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow, pytest.mark.timeout(600)]
LONG = ("schedule.steps_per_epoch=4000", "log.every_steps=2", "checkpoint.every_steps=10")
SPLITS = {"data": "seeds.count=1", "seed": "seeds.count=2"}
"""What the processes share: a batch, with messages in every step, or only checkpoints."""

needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0
    or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
    reason="mounts something for one process alone: takes root and mount namespaces",
)


@contextlib.contextmanager
def begun(tmp_path, *overrides, before=(), commands=None):
    """Two processes of a search that has saved a checkpoint; before: a command that runs the
    second."""
    command = launching.search(tmp_path / "run", *LONG, *overrides)
    with launching.Plain(tmp_path / "said", commands or [command, [*before, *command]]) as run:
        launching.until(lambda: launching.newest(tmp_path / "run") or ended(run), 180)
        assert not ended(run), [run.said(number) for number in range(2)]
        yield run


def ended(run):
    return any(process.poll() is not None for process in run.processes)


def one_line(said, start, kind="error: "):
    """Asserts that an error is told in one line that starts so, without a traceback."""
    lines = [line for line in said.splitlines() if line.startswith("darts-dist: ")]
    assert len(lines) == 1 and lines[0].startswith(f"darts-dist: {kind}{start}"), said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "split", [pytest.param("data"), pytest.param("seed", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_takes_the_other_down_with_4(tmp_path, split, victim, record_property):
    with begun(tmp_path, SPLITS[split]) as run:
        watch = launching.Watch(record_property, tmp_path / "run")
        run.processes[victim].kill()
        assert run.processes[1 - victim].wait(30) == 4
        wall_s = watch.seen()
        watch.lost()
        one_line(run.said(1 - victim), "")
    assert wall_s < (5 if split == "data" or victim == 0 else 15)  # a heartbeat of 5 s is missed


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_takes_the_other_down_by_its_missing_heartbeat(
    tmp_path, split, victim, record_property
):
    with begun(tmp_path, SPLITS[split]) as run:
        watch = launching.Watch(record_property, tmp_path / "run")
        run.processes[victim].send_signal(signal.SIGSTOP)
        assert run.processes[1 - victim].wait(20) == 4
        watch.seen()
        watch.lost()
        one_line(run.said(1 - victim), "the cluster failed")


@pytest.mark.slow
def test_a_step_that_stands_still_is_ended_by_the_watchdog(tmp_path, record_property):
    limits = [f"cluster.{phase}_timeout_s=2" for phase in ("step", "evaluation", "save")]
    with begun(tmp_path, "cluster.heartbeat_timeout_s=100", *limits) as run:
        time.sleep(1)
        watch = launching.Watch(record_property, tmp_path / "run")
        run.processes[1].send_signal(signal.SIGSTOP)
        assert run.processes[0].wait(60) == 4
        assert watch.seen() < 15
        watch.lost()
        one_line(run.said(0), "stalled: ")


@pytest.mark.parametrize(
    ("number", "victims"),
    [
        (signal.SIGTERM, [1]),
        *(pytest.param(signal.SIGTERM, v, marks=pytest.mark.slow) for v in ([0], [0, 1])),
        *(pytest.param(signal.SIGINT, v, marks=pytest.mark.slow) for v in ([0], [1], [0, 1])),
    ],
)
def test_a_signal_to_some_makes_all_save_and_leave_with_75(
    tmp_path, number, victims, record_property
):
    with begun(tmp_path) as run:
        watch = launching.Watch(record_property, tmp_path / "run")
        for victim in victims:
            run.processes[victim].send_signal(number)
        assert run.codes(30) == [75, 75]
        watch.seen()
        watch.lost()
        said = [run.said(at) for at in range(2)]
    for one in said:
        one_line(one, "stopped at step ", kind="")
    step = launching.newest(tmp_path / "run")
    assert all(f"stopped at step {step}, and the state is saved" in one for one in said)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_in_the_middle_of_a_save_the_one_before_is_resumed(
    tmp_path, victim, record_property
):
    command = launching.search(tmp_path / "run", *LONG, SPLITS["seed"])
    folder = tmp_path / "run" / "checkpoints"
    with begun(tmp_path, SPLITS["seed"]) as run:
        launching.until(lambda: list(folder.glob("*.orbax-checkpoint-tmp*")), 60, 0.0005)
        watch = launching.Watch(record_property, tmp_path / "run")
        run.processes[victim].kill()
        kept = launching.newest(tmp_path / "run")
        assert run.processes[1 - victim].wait(30) == 4
        watch.seen()
        watch.lost()
        kept = max(kept, launching.newest(tmp_path / "run"))
    with launching.Plain(tmp_path / "said", [command, command]) as run:
        launching.until(lambda: "resumed from" in run.said(0) or ended(run))
        assert f"resumed from step {kept}" in run.said(0)


@needs_mounts
@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_a_full_disk_ends_with_5_and_keeps_what_was_there(tmp_path, split, record_property):
    workdir = tmp_path / "run"
    workdir.mkdir()
    with small_disk(workdir):
        with begun(tmp_path, SPLITS[split]) as run:
            fill(workdir / "filling")
            watch = launching.Watch(record_property, workdir)
            codes = run.codes(60)
            watch.seen()
            watch.lost()
            assert 5 in codes and set(codes) <= {4, 5}
            one_line(run.said(codes.index(5)), "")
            assert "No space left on device" in run.said(codes.index(5))
        kept = launching.newest(workdir)
        assert kept
        (workdir / "filling").unlink()
        command = launching.search(workdir, *LONG, SPLITS[split])
        with launching.Plain(tmp_path / "said", [command, command]) as run:
            launching.until(lambda: "resumed from" in run.said(0) or ended(run))
            assert f"resumed from step {kept}" in run.said(0)


def fill(path):
    """Writes a file until the disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@contextlib.contextmanager
def small_disk(folder):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@needs_mounts
def test_a_folder_that_one_host_may_not_write_ends_with_5(tmp_path):
    workdir = tmp_path / "run"
    (workdir / "checkpoints").mkdir(parents=True)
    place = shlex.quote(str(workdir))
    mounts = f"mount --bind {place} {place} && mount -o remount,bind,ro {place}"
    before = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    command = launching.search(workdir, *LONG, SPLITS["seed"])
    with launching.Plain(tmp_path / "said", [command, [*before, *command]]) as run:
        codes = run.codes(120)
        assert codes[1] == 5 and codes[0] in (4, 5)
        one_line(run.said(1), "")
        assert "Read-only file system" in run.said(1)
    assert pathlib.Path(workdir / "config.toml").exists()
