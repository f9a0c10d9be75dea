"""Which processes a run has, read from the environment that its launcher made, and no others.

Place: layer 0, standard library only; `cluster` joins them. Nothing here starts or contacts
anything but the coordinator's own port, which is tried because jax would crash on one that is
taken.
"""

import ctypes
import fcntl
import glob
import importlib.util
import os
import signal
import socket
from collections.abc import Mapping

from darts_dist.errors import ClusterError, ConfigError, InputError, StorageError

PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>
PARENT = "DARTS_PARENT"  # holds the number of the process that this one ends with
OURS = ("DARTS_COORDINATOR", "DARTS_NUM_PROCESSES", "DARTS_PROCESS_ID")


def coordinator(environment: Mapping[str, str]) -> tuple[str, int, int] | None:
    """Returns (address, process count, own number) by the DARTS_ variables, None without.

    Raises ConfigError when some are missing, are no numbers, or contradict each other.
    """
    given = {name: environment[name] for name in OURS if environment.get(name)}
    if not given:
        return None
    missing = [name for name in OURS if name not in given]
    if missing:
        raise ConfigError(
            f"{', '.join(given)} without {', '.join(missing)}; set all three of {', '.join(OURS)}, "
            "or none"
        )
    address, *numbers = given.values()
    for name, number in zip(OURS[1:], numbers, strict=True):
        if not number.isdecimal():
            raise ConfigError(f"{name}={number} is not a whole number")
    count, own = map(int, numbers)
    if not 0 <= own < count:
        raise ConfigError(
            f"DARTS_PROCESS_ID={own} does not fit DARTS_NUM_PROCESSES={count}; "
            "processes are numbered from 0"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"DARTS_COORDINATOR={address} is not of the form host:port")
    return address, count, own


def found_by_jax(environment: Mapping[str, str], platform: str = "") -> bool:
    """Returns whether a launcher that jax can read started more than one process.

    SLURM and Open MPI count their processes, a Kubernetes job has to be an indexed one, TPU hosts
    are listed in TPU_WORKER_HOSTNAMES or, on a bare TPU machine, known to its metadata server.
    """
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if _number(environment, "SLURM_NTASKS") > 1 and all(name in environment for name in slurm):
        return True
    if _number(environment, "OMPI_COMM_WORLD_SIZE") > 1:
        if "OMPI_MCA_orte_hnp_uri" in environment:
            return True
        raise ConfigError(
            "Open MPI started several processes, and jax finds its coordinator only under Open MPI "
            f"4; set {', '.join(OURS)} for each of them"
        )
    if _number(environment, "MEGASCALE_NUM_SLICES") > 1:
        return True
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if hosts:
        return "," in hosts
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        if importlib.util.find_spec("kubernetes") is None:
            raise ConfigError(
                "this is an indexed Kubernetes job, and the package 'kubernetes' that finds its "
                "other processes is missing; install it, or set " + ", ".join(OURS)
            )
        return True
    platforms = environment.get("JAX_PLATFORMS") or platform or "tpu"
    if "tpu" not in platforms or "TPU_SKIP_MDS_QUERY" in environment:
        return False
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def several(environment: Mapping[str, str], platform: str = "") -> bool:
    """Returns whether this process was started as one of a cluster."""
    return coordinator(environment) is not None or found_by_jax(environment, platform)


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment like this one in which a process is one of no cluster."""
    counts = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "JOB_COMPLETION_INDEX")
    return {name: value for name, value in environment.items() if name not in (*OURS, *counts)}


def end_with(parent: int) -> None:
    """Has this process killed when its parent ends, however that comes; on Linux only."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), signal.SIGKILL)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else 0


def claim(folder: str) -> int:
    """Returns an open file that keeps a run folder, made where it was not there, for this process
    until it is closed.

    Raises InputError where another process holds it, StorageError where it cannot be made; file
    systems without locks are not kept, and for folders that are not local the file is -1.
    """
    if "://" in folder:
        return -1
    try:
        os.makedirs(folder, exist_ok=True)
        file = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"{folder} cannot be opened: {error.strerror}; mend it") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise InputError(
            f"another process works in {folder}; wait until it ends, or choose another --workdir"
        ) from None
    except OSError:
        pass
    return file


def check_address(address: str, bind: bool) -> None:
    """Raises ClusterError for what jax would crash on: an unknown host, a port in use."""
    host, _, port = address.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, UnicodeError) as error:
        raise ClusterError(f"DARTS_COORDINATOR={address}: the host is unknown: {error}") from error
    if not bind:
        return
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", int(port)), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise ClusterError(
            f"DARTS_COORDINATOR={address}: process 0 cannot listen on port {port}: "
            f"{os.strerror(error.errno or 0)}; choose a free port, the same for all processes"
        ) from error
