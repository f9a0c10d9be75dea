"""Starts one command as several processes of one run on this machine, on CPU devices.

    python scripts/launch_local.py --processes 2 --devices-per-process 4 -- darts-dist search
    tiny.toml

Each process gets the DARTS_ variables, its CPU devices and a thread pool of one size, so that on
the same number of devices the results are bit for bit those of any other split. Each writes its own
log; the first one's is shown here too. When one ends badly the others are ended, and the exit code
is the first failing one's by the project's table (0 done, 2 bad input, 3 diverged, 4 cluster, 5
storage, 75 preempted). Standard library only.
"""

import argparse
import contextlib
import math
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

POLL_S = 0.05
LEAVE_S = 60  # that the others have after one left with its state saved
MEANINGS = {
    0: "done",
    1: "failed: an error of the program, see its log",
    2: "failed: bad input, see its log",
    3: "failed: every seed diverged",
    4: "failed: the cluster failed; start again, it resumes",
    5: "failed: storage failed",
    75: "preempted or interrupted: state saved; start again, it resumes",
}


def read_arguments(arguments):
    """Returns the parsed command line; exits with 2 on one that makes no sense."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True, metavar="N")
    parser.add_argument("--devices-per-process", type=int, required=True, metavar="M")
    parser.add_argument(
        "--grace", type=float, default=10.0, metavar="S", help="seconds from SIGTERM to SIGKILL"
    )
    parser.add_argument("--logs", default="", metavar="DIR", help="folder of the logs")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    found = parser.parse_args(arguments)
    found.command = found.command[1:] if found.command[:1] == ["--"] else found.command
    if not found.command:
        parser.error("no command given; put it after --")
    if found.processes < 1 or found.devices_per_process < 1:
        parser.error("--processes and --devices-per-process have to be at least 1")
    program = resolve(found.command[0])
    if program is None:
        parser.error(f"the command {found.command[0]!r} is not found")
    found.command[0] = program
    return found


def resolve(program):
    """Returns where a program is: as given, beside this Python, on PATH; None when nowhere."""
    beside = pathlib.Path(sys.executable).parent / program
    if os.sep not in program and beside.is_file():
        return str(beside)
    return shutil.which(program)


def free_port():
    """Returns a port that nothing on this machine listens on."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(("", 0), family=family, dualstack_ipv6=both) as server:
        return server.getsockname()[1]


def environment(number, processes, devices, port):
    """Returns the environment of process `number`."""
    return {
        **os.environ,
        "DARTS_COORDINATOR": f"127.0.0.1:{port}",
        "DARTS_NUM_PROCESSES": str(processes),
        "DARTS_PROCESS_ID": str(number),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
        "NPROC": str(processes * devices),  # one size of thread pool: one order of summation
        "PYTHONUNBUFFERED": "1",
    }


def say(text):
    """Writes one line to stderr."""
    print(f"launch_local: {text}", file=sys.stderr, flush=True)


def exit_code(status):
    """Returns the project's exit code of a process's return status; death by a signal is 4."""
    return 4 if status < 0 or status not in MEANINGS else status


def describe(number, status):
    """Returns in words how process `number` ended."""
    if status < 0:
        name = signal.Signals(-status).name
        return f"process {number} died by {name}: a lost peer, a crash, or killed from outside"
    return f"process {number} {MEANINGS.get(status, f'ended with the unknown code {status}')}"


def show(pipe, path):
    """Copies the first process's output to its log and, while somebody reads it, to our stdout."""
    read = True
    with path.open("wb") as log:
        while chunk := pipe.read1(65536):
            log.write(chunk)
            log.flush()
            try:
                if read:
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.buffer.flush()
            except OSError:
                read = False


def start(found, logs, processes):
    """Appends the started processes, each in a session of its own: our terminal's signals go to us.

    Returns the thread that copies the first one's output.
    """
    port = free_port()
    for number in range(found.processes):
        settings = environment(number, found.processes, found.devices_per_process, port)
        with (logs / f"process-{number}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    found.command,
                    env=settings,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if number == 0 else log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
    output = processes[0].stdout, logs / "process-0.log"
    shower = threading.Thread(target=show, args=output, daemon=True)
    shower.start()
    return shower


def send(processes, number):
    """Sends a signal to every process that still runs, with what it has started itself."""
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


def end(processes, grace_s):
    """Ends what still runs: SIGTERM, a time of grace, SIGKILL."""
    send(processes, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(POLL_S)
    send(processes, signal.SIGKILL)


def watch(processes, grace_s):
    """Returns the status of the first process that failed, 0 when none did; all have ended then.

    Ending with 75 does not end the others at once: they save at the same step and leave by
    themselves. Of processes seen to end together, one that says why counts before one that lost its
    peer.
    """
    first, told, deadline = 0, set(), math.inf
    while len(told) < len(processes):
        ended = [(number, process.poll()) for number, process in enumerate(processes)]
        ended = [item for item in ended if item[1] is not None and item[0] not in told]
        for number, status in sorted(ended, key=lambda item: exit_code(item[1]) == 4):
            told.add(number)
            say(describe(number, status))
            first = first or status
            if status:
                wait_s = LEAVE_S if status == 75 else 0
                deadline = min(deadline, time.monotonic() + wait_s)
        if time.monotonic() >= deadline and len(told) < len(processes):
            end(processes, grace_s)
        time.sleep(POLL_S)
    return first


def main(arguments=None):
    """Returns the exit code of the whole."""
    found = read_arguments(arguments)
    logs = pathlib.Path(found.logs or tempfile.mkdtemp(prefix="darts-local-"))
    logs.mkdir(parents=True, exist_ok=True)
    say(f"{found.processes} x {found.devices_per_process} CPU devices, logs in {logs}")
    say(shlex.join(found.command))
    processes = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: send(processes, number))
    try:
        shower = start(found, logs, processes)
        status = watch(processes, found.grace)
    finally:
        send(processes, signal.SIGKILL)
    shower.join(timeout=5)
    return exit_code(status)


if __name__ == "__main__":
    sys.exit(main())
