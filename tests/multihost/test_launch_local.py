"""The launcher with commands of a line: it starts, watches, ends, starts again, and says so."""

import os
import re
import signal
import subprocess
import sys
import time

import launching
import pytest

pytestmark = pytest.mark.multiprocess


def sh(text):
    return ["sh", "-c", text]


def launch(tmp_path, processes, devices, text, *options, timeout_s=60):
    """Returns the launcher's code, what it and process 0 said, and the seconds that it took."""
    began = time.monotonic()
    found = launching.launch(
        processes,
        devices,
        sh(text),
        "--logs",
        str(tmp_path / "logs"),
        *options,
        timeout_s=timeout_s,
    )
    return *found, time.monotonic() - began


def log(tmp_path, number):
    return (tmp_path / "logs" / f"process-{number}.log").read_text()


def test_each_process_gets_its_place_and_one_size_of_thread_pool(tmp_path):
    text = "echo $DARTS_PROCESS_ID of $DARTS_NUM_PROCESSES, $JAX_NUM_CPU_DEVICES of $NPROC"
    code, said, _ = launch(tmp_path, 2, 3, text)
    assert code == 0
    for number in range(2):
        assert f"{number} of 2, 3 of 6" in log(tmp_path, number)
        assert f"process {number} done" in said
    assert "0 of 2, 3 of 6" in said
    assert "1 of 2" not in said


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("exit 1", 1, "an error of the program"),
        ("exit 2", 2, "bad input"),
        ("exit 3", 3, "every seed diverged"),
        ("exit 5", 5, "storage failed"),
        ("exit 41", 1, "unknown code 41"),
    ],
)
def test_what_another_start_would_not_mend_is_not_started_again(tmp_path, end, code, words):
    text = f"[ $DARTS_PROCESS_ID = 0 ] && sleep 60; {end}"
    found, said, wall_s = launch(tmp_path, 2, 1, text, "--max-restarts", "3")
    assert found == code
    assert words in said
    assert "process 0 was ended by SIGTERM" in said
    assert said.count("start 1:") == 1 and "start 2:" not in said
    assert wall_s < 10


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("exit 4", 4, "cluster failed"),
        ("exit 75", 75, "left with its state saved"),
        ("exit 139", 4, "unknown code 139"),
        ("kill -KILL $$", 4, "killed by SIGKILL"),
        ("kill -ABRT $$", 4, "aborted (SIGABRT)"),
        ("kill -SEGV $$", 4, "crashed (SIGSEGV)"),
        ("kill -USR1 $$", 4, "died by SIGUSR1"),
    ],
)
def test_what_another_start_may_mend_is_started_again_on_another_port(tmp_path, end, code, words):
    text = f"echo port $DARTS_COORDINATOR; {end}"
    found, said, _ = launch(tmp_path, 1, 1, text, "--max-restarts", "2")
    assert found == code
    assert said.count(words) == 3
    assert "start 3:" in said and "start 4:" not in said
    assert len(set(re.findall(r"port (\S+)", log(tmp_path, 0)))) == 3


def test_a_run_that_ends_well_at_a_later_start_has_ended_well(tmp_path):
    text = f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; exit 4; }}"
    assert launch(tmp_path, 1, 1, text, "--max-restarts", "1")[0] == 0


def test_elastic_goes_on_with_fewer_processes_and_the_same_devices(tmp_path):
    text = (
        "echo $JAX_NUM_CPU_DEVICES of $NPROC; [ $DARTS_NUM_PROCESSES = 1 ] && exit; "
        "[ $DARTS_PROCESS_ID = 1 ] && exit 4; sleep 60"
    )
    code, said, _ = launch(tmp_path, 6, 1, text, "--max-restarts", "3", "--elastic")
    assert code == 0
    assert re.findall(r"start \d: (\d+) process", said) == ["6", "3", "2", "1"]
    assert re.findall(r"(\d) of 6$", log(tmp_path, 0), re.M) == ["1", "2", "3", "6"]


def test_elastic_passes_over_a_number_of_processes_that_is_refused(tmp_path):
    text = "case $DARTS_NUM_PROCESSES in 6) exit 4;; 3) exit 2;; *) exit 0;; esac"
    code, said, _ = launch(tmp_path, 6, 1, text, "--max-restarts", "1", "--elastic")
    assert code == 0
    assert "3 processes do not fit" in said


def test_a_death_is_seen_within_a_second_and_all_are_ended(tmp_path):
    text = f"echo $$ > {tmp_path}/$DARTS_PROCESS_ID; trap '' TERM; sleep 60 & wait; sleep 60"
    command = launching.launcher(3, 1, sh(text), "--logs", str(tmp_path / "logs"), "--grace", "0.5")
    with launching.running(command, subprocess.PIPE) as process:
        pids = [pid_of(tmp_path, number) for number in range(3)]
        os.kill(pids[1], signal.SIGKILL)
        began = time.monotonic()
        for line in process.stdout:
            if b"process 1 was killed" in line:
                break
        assert time.monotonic() - began < 1
        assert process.wait(10) == 4
        assert not any(launching.alive(pid) for pid in pids)
        said = process.stdout.read().decode()
    for number in (0, 2):  # as they ignore SIGTERM
        assert f"process {number} did not leave in time and was killed" in said
    assert "process 1 did not leave" not in said


def test_a_stopped_process_is_a_stall(tmp_path):
    text = "[ $DARTS_PROCESS_ID = 1 ] && kill -STOP $$; sleep 60"
    code, said, wall_s = launch(tmp_path, 2, 1, text, "--grace", "1")
    assert code == 4
    assert "process 1 has been stopped by a signal for 5 s" in said
    assert wall_s < 12


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_launcher_is_passed_on_and_waited_for(tmp_path, number):
    text = (
        f"trap 'sleep 1; echo saved; exit 75' TERM INT; echo $$ > {tmp_path}/$DARTS_PROCESS_ID; "
        "while true; do sleep 0.1; done"
    )
    command = launching.launcher(
        2, 1, sh(text), "--logs", str(tmp_path / "logs"), "--max-restarts", "5"
    )
    with launching.running(command) as process:
        pids = [pid_of(tmp_path, at) for at in range(2)]
        process.send_signal(number)
        assert process.wait(20) == 75
        assert not any(launching.alive(pid) for pid in pids)
    assert [log(tmp_path, at).count("saved") for at in range(2)] == [1, 1]


def test_a_second_signal_to_the_launcher_kills(tmp_path):
    text = f"trap '' TERM INT; echo $$ > {tmp_path}/$DARTS_PROCESS_ID; sleep 60; sleep 60"
    command = launching.launcher(2, 1, sh(text), "--logs", str(tmp_path / "logs"))
    with launching.running(command) as process:
        pids = [pid_of(tmp_path, at) for at in range(2)]
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 4
        assert not any(launching.alive(pid) for pid in pids)


def test_no_process_survives_its_launcher(tmp_path):
    text = f"trap '' TERM HUP; echo $$ > {tmp_path}/$DARTS_PROCESS_ID; while true; do sleep 1; done"
    command = launching.launcher(2, 1, sh(text), "--logs", str(tmp_path / "logs"))
    with launching.running(command) as process:
        pids = [pid_of(tmp_path, at) for at in range(2)]
        process.kill()
        launching.until(lambda: not any(launching.alive(pid) for pid in pids), timeout_s=2)


def pid_of(tmp_path, number):
    """The pid that a command has written down."""
    path = tmp_path / str(number)
    return int(launching.until(lambda: path.exists() and path.read_text().strip()))


def test_output_is_kept_in_the_workdir_over_all_starts(tmp_path):
    command = sh("echo one line; exit 75")
    code, _ = launching.launch(
        2, 1, [*command, "--workdir", str(tmp_path / "run")], "--max-restarts", "1"
    )
    assert code == 75
    for number in range(2):
        text = (tmp_path / "run" / "processes" / f"process-{number}.log").read_text()
        assert text.count("one line") == 2
    assert any("start 2" in text for _, text in launching.told(tmp_path / "run"))


def test_logs_that_cannot_be_kept_do_not_keep_a_run_from_running(tmp_path):
    (tmp_path / "file").write_text("")
    workdir = str(tmp_path / "file" / "run")
    code, said = launching.launch(1, 1, [*sh("echo it ran"), "--workdir", workdir])
    assert code == 0
    assert "no logs in" in said and "it ran" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--processes", "2", "--devices-per-process", "1"],
        ["--processes", "0", "--devices-per-process", "1", "--", "python"],
        ["--processes", "2", "--", "python"],
        ["--processes", "1", "--devices-per-process", "1", "--", "no-such-program"],
        ["--processes", "1", "--devices-per-process", "1", "--max-restarts", "-1", "--", "python"],
        ["--processes", "1", "--devices-per-process", "1", "--namespaces", "no-such", "--", "sh"],
    ],
)
def test_a_command_line_that_makes_no_sense_ends_with_2_and_one_line(arguments):
    command = [sys.executable, str(launching.LAUNCHER), *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("launch_local: error: ")
