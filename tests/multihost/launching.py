"""Starting the launcher, and a search that is as small as one can be, as real processes."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
LAUNCHER = ROOT / "scripts" / "launch_local.py"
SIZES = (
    "network.nodes=1",
    "network.layers=1",
    "network.channels=2",
    'space.operations=["skip_connect", "max_pool_3x3"]',
    "seeds.count=1",
    "cluster.cpu_devices=1",
    "cluster.heartbeat_timeout_s=5",
)
SEARCH = (sys.executable, "-m", "darts_dist", "search", str(ROOT / "configs" / "tiny.toml"))


def environment(**more):
    """Returns the environment of this process without what it says of devices and clusters."""
    foreign = ("XLA_FLAGS", "JAX_", "DARTS_", "SLURM_", "OMPI_", "NPROC")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **more}


def search(workdir, *overrides):
    """Returns the command of a search that compiles in seconds."""
    return [*SEARCH, *SIZES, *overrides, "--workdir", str(workdir)]


def launcher(processes, devices, command, *options):
    """Returns the launcher's command."""
    numbers = ["--processes", str(processes), "--devices-per-process", str(devices)]
    return [sys.executable, str(LAUNCHER), *numbers, *options, "--", *command]


@contextlib.contextmanager
def running(command, output=None, **settings):
    """A process that is killed at the end, if it still runs, with all that it started."""
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=output or subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **settings,
    )
    try:
        yield process
    finally:
        if process.poll() is None:  # once it is waited for, its number may be another's
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def launch(processes, devices, command, *options, timeout_s=120):
    """Returns the launcher's exit code and what it and process 0 said, when it has ended."""
    done = subprocess.run(
        launcher(processes, devices, command, *options),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
    )
    return done.returncode, done.stdout


class Plain:
    """Processes of one run that no launcher watches, as hosts of a cluster would start them."""

    def __init__(self, folder, commands, environments=(), taken=False):
        """Starts a process for each command; its output goes to folder/N.txt.

        environments: what is set for each besides.  taken: somebody listens on their port.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.processes = folder, []
        self.server = socket.create_server(("", 0))
        self.port = self.server.getsockname()[1]
        if not taken:
            self.server.close()
        for number, command in enumerate(commands):
            place = {
                "DARTS_COORDINATOR": f"127.0.0.1:{self.port}",
                "DARTS_NUM_PROCESSES": str(len(commands)),
                "DARTS_PROCESS_ID": str(number),
                "JAX_NUM_CPU_DEVICES": "1",
                **(environments[number] if environments else {}),
            }
            with (folder / f"{number}.txt").open("wb") as output:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        cwd=folder,  # Python looks for modules where it is started
                        env=environment(**place),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.wait()
        self.server.close()

    def codes(self, timeout_s=60):
        """Returns the return status of each, when all have ended."""
        deadline = time.monotonic() + timeout_s
        return [one.wait(max(deadline - time.monotonic(), 0.1)) for one in self.processes]

    def said(self, number):
        """Returns what a process has said."""
        return (self.folder / f"{number}.txt").read_text(errors="replace")


def newest(workdir):
    """Returns the newest finished checkpoint's step, 0 without any."""
    folder = pathlib.Path(workdir) / "checkpoints"
    names = os.listdir(folder) if folder.exists() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


def until(fact, timeout_s=60, every_s=0.01):
    """Waits until a fact holds, and returns it."""
    deadline = time.monotonic() + timeout_s
    while not (found := fact()):
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(every_s)
    return found


def children(parent):
    """Returns the processes that a process started, in their order."""
    found = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in found.split()]


def alive(pid):
    """Returns whether a process runs; one that has ended and not been waited for does not."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def told(workdir):
    """Returns (seconds since the launcher's start, text) of each line of its own log."""
    text = (pathlib.Path(workdir) / "processes" / "launcher.log").read_text()
    return [(float(s), said) for s, said in re.findall(r"launch_local: ([\d.]+) s: (.*)", text)]


class Watch:
    """What a fault costs, measured: properties `seen_s` and `lost_steps` in a report of pytest's
    (`--junitxml`), from which the table in docs/reliability.md is made."""

    def __init__(self, record, workdir):
        self.record, self.workdir, self.began = record, pathlib.Path(workdir), time.monotonic()

    def seen(self):
        """Records, and returns, the seconds since the fault."""
        seen_s = time.monotonic() - self.began
        self.record("seen_s", f"{seen_s:.2f}")
        return seen_s

    def lost(self):
        """Records the steps that were reported and that no checkpoint has."""
        steps = re.findall(r" step (\d+)/", (self.workdir / "log.txt").read_text())
        last = max(map(int, steps), default=0)
        self.record("lost_steps", str(max(last - newest(self.workdir), 0)))
