"""Starts the processes of `launch_local`, watches them, ends them, and starts them again."""

import contextlib
import dataclasses
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

from endings import cause, describe, exit_code

POLL_S = 0.05
SETTLE_S = 1.0  # that the others have to end by themselves after one failed
LEAVE_S = 60.0  # that they have after one left with its state saved
STOPPED_S = 5.0  # for which a process may stand stopped by a signal
HOST_WAIT_S = 60.0  # for which a lost host is waited for
# With PR_SET_PDEATHSIG the kernel kills a process when its launcher dies, however it dies. Python
# may not run between fork and exec of a process with threads, so a Python of its own sets it.
BOUND = """
import ctypes, os, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    os._exit(4)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Teller:
    """Writes lines to stderr and to launcher.log, with the seconds since the start."""

    def __init__(self, logs):
        self._began = time.monotonic()
        self._files = [2, os.open(logs / "launcher.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)]

    def __call__(self, text):
        """Writes one line; where that cannot be, the others still get it.

        By system calls, for it is called in signal handlers too.
        """
        line = f"launch_local: {time.monotonic() - self._began:.2f} s: {text}\n"
        for file in self._files:
            with contextlib.suppress(OSError):
                os.write(file, line.encode())


@dataclasses.dataclass
class Team:
    """What is started: a command as so many processes with so many devices in all.

    hosts: a `hosts.Hosts`; names: those of its hosts that are used.
    """

    command: list
    processes: int
    devices: int
    hosts: object
    logs: pathlib.Path
    grace_s: float
    names: list

    def smaller(self, lost=()):
        """Returns a team of fewer processes on the hosts that are not lost, with all the devices.

        None where this one has one process already.
        """
        names = [name for name in self.names if name not in lost] or self.names
        kept = max(self.processes * len(names) // len(self.names), 1) if names else self.processes
        fewer = min(kept, self.processes - 1)
        counts = [count for count in range(fewer, 0, -1) if self.devices % count == 0]
        return dataclasses.replace(self, processes=counts[0], names=names) if counts else None

    def describe(self):
        """Returns in words what is started, and where."""
        word = "process" if self.processes == 1 else "processes"
        where = f" on {', '.join(self.names)}" if self.names else ""
        return f"{self.processes} {word} x {self.devices // self.processes} CPU devices{where}"


def environment(number, team, address, port):
    """Returns the environment of process `number`."""
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        **os.environ,
        "XLA_FLAGS": re.sub(r"--xla_force_host_platform_device_count=\S+", "", flags),
        "DARTS_COORDINATOR": f"{address}:{port}",
        "DARTS_NUM_PROCESSES": str(team.processes),
        "DARTS_PROCESS_ID": str(number),
        "JAX_NUM_CPU_DEVICES": str(team.devices // team.processes),
        "JAX_PLATFORMS": "cpu",
        "NPROC": str(team.devices),  # one size of thread pool: one order of summation
        "PYTHONUNBUFFERED": "1",
    }


class Attempt:
    """The processes of one start, from the first to the last of them ending."""

    def __init__(self, team, say):
        """Starts them, each in a session of its own: our terminal's signals go to us alone."""
        self.team, self._say, self.processes, self._killed = team, say, [], set()
        address, port = team.hosts.coordinator(team.names)
        for number in range(team.processes):
            command = team.hosts.command(
                team.hosts.of(number, team.processes, team.names), team.command, team.logs
            )
            log = (team.logs / f"process-{number}.log").open("ab")
            with contextlib.suppress(OSError):  # a full disk
                log.write(f"--- process {number} of {team.describe()}\n".encode())
                log.flush()
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-ISc", BOUND, str(os.getpid()), *command],
                    env=environment(number, team, address, port),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if number == 0 else log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
            if number == 0:
                output = self.processes[0].stdout, log
                self._shower = threading.Thread(target=show, args=output, daemon=True)
                self._shower.start()
            else:
                log.close()
        self._stopped_s = {}

    def send(self, number):
        """Sends a signal to every process that still runs, with what it has started itself."""
        for at, process in enumerate(self.processes):
            if process.poll() is None:
                if number == signal.SIGKILL:
                    self._killed.add(at)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def watch(self):
        """Returns the status that tells why the processes ended; all have, then.

        After one that failed the others are ended soon; after one that left with its state saved
        they have time to do so themselves.
        """
        why, told, deadline, force = None, set(), math.inf, math.inf
        while len(told) < len(self.processes):
            ended = {at: one.poll() for at, one in enumerate(self.processes) if at not in told}
            ended = {at: status for at, status in ended.items() if status is not None}
            for number, status in ended.items():
                told.add(number)
                self._say(describe(number, status, killed=number in self._killed))
            failed = [status for status in ended.values() if status]
            if failed and why is None:
                why = cause(failed)
                wait_s = LEAVE_S if set(failed) == {75} else SETTLE_S
                deadline = time.monotonic() + wait_s
            stalled = self._stalled() if why is None else ""
            if stalled:
                self._say(stalled)
                why, deadline = 4, 0
            if time.monotonic() >= deadline and len(told) < len(self.processes):
                self.send(signal.SIGTERM)
                force, deadline = time.monotonic() + self.team.grace_s, math.inf
            if time.monotonic() >= force:
                self.send(signal.SIGKILL)
            time.sleep(POLL_S)
        self._shower.join(timeout=5)
        return why or 0

    def _stalled(self):
        """Returns in words what stands still although nothing has ended, "" where all goes on."""
        now = time.monotonic()
        for number, process in enumerate(self.processes):
            if state(process.pid) != "T":
                self._stopped_s.pop(number, None)
            elif now - self._stopped_s.setdefault(number, now) >= STOPPED_S:
                return f"process {number} has been stopped by a signal for {STOPPED_S:.0f} s"
        reachable = self.team.hosts.reachable(self.team.names)
        lost = [name for name in self.team.names if name not in reachable]
        return f"lost: host {', '.join(lost)} does not answer" if lost else ""


def state(pid):
    """Returns the state letter of a process, as Linux has it; "" elsewhere and when it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def show(pipe, log):
    """Copies the first process's output to its log and to our stdout, while they take it."""
    targets = [log, sys.stdout.buffer]
    while chunk := pipe.read1(65536):
        for target in list(targets):
            try:
                target.write(chunk)
                target.flush()
            except OSError:  # a full disk, a reader that has gone
                targets.remove(target)
    with contextlib.suppress(OSError):
        log.close()


class Supervisor:
    """Starts a team, and again when it failed and that can help."""

    def __init__(self, team, max_restarts, elastic, say):
        """Takes the signals of this process over."""
        self._team, self._left, self._elastic, self._say = team, max_restarts, elastic, say
        self._attempt, self._asked = None, 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._pass_on)

    def run(self):
        """Returns the exit code of the last start."""
        begun, shrunk = 0, False
        while True:
            if not self._await_hosts():
                return 75 if self._asked else 4
            begun += 1
            self._say(f"start {begun}: {self._team.describe()}")
            code = self._once()
            if code == 2 and shrunk and (fewer := self._team.smaller()):
                self._say(f"{self._team.processes} processes do not fit")
                self._team = fewer
                continue
            if code not in (4, 75) or not self._left or self._asked:
                return code
            self._left -= 1
            if code == 4 and self._elastic and (fewer := self._team.smaller(self._lost())):
                self._team, shrunk = fewer, True
            self._say(f"starting again, {self._left} more times at most")

    def _once(self):
        """Returns the exit code of one start."""
        self._attempt = Attempt(self._team, self._say)
        try:
            if self._asked:  # while they were being started
                self._attempt.send(signal.SIGTERM)
            status = self._attempt.watch()
        finally:
            self._attempt.send(signal.SIGKILL)
        statuses = {process.returncode for process in self._attempt.processes}
        left = statuses & {75, -signal.SIGTERM, -signal.SIGINT}
        return 75 if self._asked == 1 and left else exit_code(status)

    def _lost(self):
        """Returns the hosts of the team that do not answer, as soon as that is certain."""
        while self._team.hosts.doubtful(self._team.names) and not self._asked:
            time.sleep(POLL_S)
        reachable = self._team.hosts.reachable(self._team.names)
        return [name for name in self._team.names if name not in reachable]

    def _await_hosts(self):
        """Returns whether all hosts of the team answer, within HOST_WAIT_S, and nobody asked to
        stop."""
        deadline = time.monotonic() + HOST_WAIT_S
        while (lost := self._lost()) and not self._asked:
            if time.monotonic() > deadline:
                self._say(f"host {', '.join(lost)} has not come back for {HOST_WAIT_S:.0f} s")
                return False
            time.sleep(POLL_S)
        return not self._asked

    def _pass_on(self, number, frame):
        """Passes a first signal on to all processes, and kills them on a second."""
        self._asked += 1
        name = signal.Signals(number).name
        if self._asked == 1:
            self._say(f"{name}: passed on; all save and leave, a second one kills")
        else:
            self._say(f"{name} again: killing all")
        if self._attempt is not None:
            first = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
            self._attempt.send(first if self._asked == 1 else signal.SIGKILL)
