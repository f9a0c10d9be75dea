"""Trainings side by side: each a process of its own, on devices of its own.

Place: layer 4, what `select` does where there are several devices or hosts. A training here is
`darts-dist train FILE --workdir FOLDER`, the same as by hand; it is resumed as that is. The process
that starts them touches no accelerator, for whoever has looked at one holds its memory.
"""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

from darts_dist import processes, xla_flags
from darts_dist.errors import BY_CODE, ClusterError, ConfigError, DivergedError, Interrupted
from darts_dist.trainconfig import SelectConfig, TextSelectConfig

POLL_S = 0.1
PROBE = """
import sys, jax
from darts_dist import cluster
cluster.start(platform=sys.argv[1], cpu_devices=int(sys.argv[2]), alone=True, cache=False)
print(jax.default_backend(), jax.local_device_count())
"""


@dataclasses.dataclass(frozen=True)
class Host:
    """What one host trains on: a platform, and how many devices of it."""

    platform: str
    devices: int

    @property
    def divides(self) -> bool:
        """Whether its devices can be given to several processes."""
        return self.platform in ("cpu", "gpu")


def look(config: SelectConfig | TextSelectConfig) -> Host:
    """Returns what this host has, seen by a process that ends; ConfigError where that fails."""
    command = [
        sys.executable,
        "-c",
        PROBE,
        config.cluster.platform,
        str(config.cluster.cpu_devices),
    ]
    told = subprocess.run(command, env=processes.alone(os.environ), capture_output=True, text=True)
    words = told.stdout.split()
    if told.returncode or len(words) != 2:
        why = re.sub(r"^[\w.]+Error: ", "", _last_line(told.stderr))
        raise ConfigError(why or "jax cannot tell which devices there are")
    return Host(words[0], int(words[1]))


def groups_of_host(asked: int, host: Host, hosts: int, cells: int) -> int:
    """Returns how many groups the devices of each host make.

    asked: `selection.groups`, over all hosts; 0: enough to train all cells at once, if there are
    devices for that.  Raises ConfigError for a number that does not fit.
    """
    most = host.devices * hosts
    if asked > most or asked % hosts or (asked and not host.divides):
        raise ConfigError(
            f"selection.groups={asked} does not fit {hosts} x {host.devices} devices of platform "
            f"{host.platform}; use 0 to have it chosen, 1 to train one cell after the other"
        )
    if not host.divides:
        return 1
    return asked // hosts or min(host.devices, -(-cells // hosts))


def environments(host: Host, groups: int) -> list[dict[str, str]]:
    """Returns the environment of each group: equal parts of the host's devices, no cluster."""
    base = processes.alone(os.environ) | {processes.PARENT: str(os.getpid())}
    share = host.devices // groups
    if host.platform == "cpu":
        base["XLA_FLAGS"] = xla_flags.without_count(base.get("XLA_FLAGS", ""))
        return [base | {"JAX_NUM_CPU_DEVICES": str(share)}] * groups
    if groups == 1:
        return [base]
    every = base.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(host.devices)))
    names = every.split(",")
    parts = [names[at * share : (at + 1) * share] for at in range(groups)]
    return [base | {"CUDA_VISIBLE_DEVICES": ",".join(part)} for part in parts]


def train(jobs: Mapping[str, tuple[str, str]], environments: list[dict[str, str]]) -> set[str]:
    """Trains all jobs, as many at a time as there are environments; returns who diverged.

    jobs: {name: (config file, run folder)}.  Raises the error of the first training that fails
    otherwise, Interrupted after Ctrl-C or SIGTERM: the others have saved and left by then.
    """
    left, free = list(jobs.items()), list(environments)
    running: list[_Training] = []
    diverged: set[str] = set()
    try:
        while left or running:
            while left and free:
                name, (file, folder) = left.pop(0)
                running.append(_Training(name, file, folder, free.pop(0)))
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free.append(one.environment)
                if one.has_diverged():
                    diverged.add(one.name)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        _stop(running)
        raise Interrupted("interrupted; the trainings have saved") from None
    except Exception:
        _stop(running)
        raise
    return diverged


def _stop(running: "list[_Training]") -> None:
    """Has all trainings save and leave; a second Ctrl-C kills them."""
    try:
        for one in running:
            one.process.send_signal(signal.SIGTERM)
        for one in running:
            one.process.wait()
    except KeyboardInterrupt:
        for one in running:
            one.process.kill()
        raise Interrupted("interrupted twice; the trainings were killed") from None


class _Training:
    """One training that runs."""

    def __init__(self, name: str, file: str, folder: str, environment: dict[str, str]) -> None:
        self.name, self.environment = name, environment
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "darts_dist", "train", file, "--workdir", folder],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C comes from here alone
        )
        _say(f"{name}: training, told in {os.path.join(folder, 'log.txt')}")

    def has_diverged(self) -> bool:
        """Returns whether it did, rather than end well; raises what else it ended by."""
        with self._errors as errors:
            errors.seek(0)
            told = _last_line(errors.read().decode(errors="replace"))
        code = self.process.returncode
        if code in (0, DivergedError.exit_code):
            _say(f"{self.name}: {told if code else 'done'}")
            return code != 0
        if code == Interrupted.exit_code:
            raise Interrupted(f"the training of {self.name} was interrupted")
        how = told or (signal.Signals(-code).name if code < 0 else f"code {code}")
        kind = ClusterError if code < 0 else BY_CODE.get(code, RuntimeError)
        raise kind(f"the training of {self.name} failed: {how}")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"^darts-dist: (error: )?", "", lines[-1]) if lines else ""


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
