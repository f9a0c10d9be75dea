"""The cluster: starting jax, the mesh, what this process holds, agreeing, being preempted, leaving.

Place: layer 0, and the only module that calls `jax.distributed` or sets jax options. Whether a run
has one process or many follows from the environment alone; nothing is tried and caught. It knows no
config and no model. Letters: `S` seeds, `N` global batch.
"""

import contextlib
import functools
import math
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from darts_dist import ending, processes, watchdog, xla_flags
from darts_dist.errors import ConfigError

SHUTDOWN_TIMEOUT_S = 15
JOIN_MARGIN_S = 30  # by which jax, whose end is a page of C++, waits longer than the watchdog
EXTRAS = ("cuda", "tpu")  # platforms for which jax needs more packages


def start(
    *,
    platform: str = "",
    cpu_devices: int = 0,
    float64: bool = False,
    matmul: str = "float32",
    deterministic: bool = False,
    eager: bool = False,
    recurrent: bool = False,
    cache: bool = True,
    cache_dir: str = "",
    initialization_timeout_s: int = 60,
    heartbeat_timeout_s: int = 30,
    alone: bool = False,
    least_effort: bool = False,
    control: bool = False,
) -> None:
    """Sets jax up for this process and joins the others; call it before a device is touched.

    platform: "cpu", "cuda", "tpu" or "" for what jax finds. cpu_devices: devices that the CPU is
    split into, 0 for one; JAX_NUM_CPU_DEVICES and --xla_force_host_platform_device_count win.
    float64: 64-bit types on. matmul: "float32", "tensorfloat32" or "default", in what products of
    float32 are computed. deterministic: GPU kernels whose results never vary. eager: most programs
    will be single operations. recurrent: they are of networks of texts. cache: keep compiled
    programs in cache_dir ("": the user's cache folder). alone: join nobody, whatever the
    environment says. least_effort: have the compiler for TPUs take the least time. control: this
    process only starts others: it holds no accelerator and is told of SIGTERM as without a cluster.
    Raises ConfigError for a platform that is not here and for a contradictory environment,
    ClusterError when the coordinator cannot be.
    """
    if control:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_preemption_service", False)
    elif platform and not os.environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", platform)
    forced = xla_flags.COUNT in os.environ.get("XLA_FLAGS", "")
    chosen = jax.config.jax_num_cpu_devices >= 0  # pyright: ignore[reportAttributeAccessIssue]
    if cpu_devices and not forced and not chosen:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    jax.config.update("jax_enable_x64", float64)
    jax.config.update("jax_default_matmul_precision", matmul)
    if least_effort:
        jax.config.update("jax_optimization_level", "O0")
        jax.config.update("jax_memory_fitting_level", "O0")
    xla_flags.use_cpu(platform=platform, eager=eager, recurrent=recurrent)
    if deterministic:
        xla_flags.use_deterministic()
    if not alone and not jax.distributed.is_initialized():
        _join(platform, initialization_timeout_s, heartbeat_timeout_s)
    _check_devices()
    if cache:
        _use_cache(cache_dir, least_s=0.0 if eager else 0.5)


@contextlib.contextmanager
def uncompiled(*, stop_at_nan: bool = False):
    """Runs what is jitted inside operation by operation, in Python.

    stop_at_nan: the first operation with a NaN in its result raises FloatingPointError.
    """
    with jax.disable_jit(), jax.debug_nans(stop_at_nan):
        yield


def _check_devices() -> None:
    """Raises ConfigError where jax finds no device of the platform that is asked for."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        if ending.classify(error):  # a peer is lost
            raise
        asked = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        reason = (
            re.sub(r"\.? \(.*", "", str(error))
            or "jax's package for it is not installed, or finds none"
        )
        extra = f"pip install 'darts-dist[{asked}]', or " if asked in EXTRAS else ""
        raise ConfigError(
            f"no devices of platform {asked}: {reason}; {extra}choose another by JAX_PLATFORMS or "
            "cluster.platform"
        ) from error


def cache_folder(kind: str) -> str:
    """Returns where the user's cache folder keeps things of a kind of this package."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "darts_dist", kind)


def _use_cache(folder: str, least_s: float) -> None:
    """Keeps programs that took least_s to compile in a folder; warns where it is not writable."""
    folder = folder or cache_folder("xla")
    if "://" not in folder:
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            print(f"warning: no compilation cache in {folder}: {error.strerror}", file=sys.stderr)
            return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_s)


def used_cache() -> str:
    """Returns the folder in which compiled programs are kept; "" where none are."""
    return jax.config.jax_compilation_cache_dir or ""  # pyright: ignore[reportAttributeAccessIssue]


def _join(platform: str, initialization_timeout_s: int, heartbeat_timeout_s: int) -> None:
    settings: dict[str, Any] = {
        "initialization_timeout": initialization_timeout_s + JOIN_MARGIN_S,
        "heartbeat_timeout_seconds": heartbeat_timeout_s,
        "shutdown_timeout_seconds": SHUTDOWN_TIMEOUT_S,
    }
    ours = processes.coordinator(os.environ)
    if ours is not None:
        address, count, own = ours
        processes.check_address(address, bind=own == 0)
        place = {"coordinator_address": address, "num_processes": count, "process_id": own}
        settings |= {**place, "cluster_detection_method": "deactivate"}
    elif not processes.found_by_jax(os.environ, platform):
        return
    watchdog.catch_aborts()
    watch = watchdog.Watchdog(watchdog.Limits(join=initialization_timeout_s))
    with contextlib.closing(watch):
        watch.enter("join")
        jax.distributed.initialize(**settings)


def make_mesh(
    seeds: int, seed_axis: int = 0, data_axis: int = 0, devices: Sequence[Any] | None = None
) -> Mesh:
    """Returns the mesh ("seed", "data") over devices (None: of all processes), process by process.

    seeds: number of seeds of the run. seed_axis, data_axis: sizes of the axes, 0 to choose:
    gcd(seeds, devices) groups, and all the devices there are. In a single process two given sizes
    may leave devices over. Raises ConfigError when the sizes do not fit the devices or the seeds.
    """
    every = jax.devices() if devices is None else devices
    devices = sorted(every, key=lambda device: (device.process_index, device.id))
    count = len(devices)
    for name, size in (("mesh.seed", seed_axis), ("mesh.data", data_axis)):
        if size < 0 or (size and count % size and not (seed_axis and data_axis)):
            raise ConfigError(f"{name}={size} does not divide the {count} devices that there are")
    asked = seed_axis * data_axis
    if asked > count or (asked and asked < count and jax.process_count() > 1):
        raise ConfigError(
            f"mesh.seed={seed_axis} x mesh.data={data_axis} makes {asked} devices, and there are "
            f"{count}; set one of them to 0 to have it chosen"
        )
    seed_axis = seed_axis or (count // data_axis if data_axis else math.gcd(seeds, count))
    data_axis = data_axis or count // seed_axis
    if seeds % seed_axis:
        raise ConfigError(
            f"seeds.count={seeds} does not divide over mesh.seed={seed_axis} groups of devices; "
            f"use a multiple of {seed_axis} seeds, or mesh.seed={math.gcd(seeds, count)}"
        )
    grid = np.array(devices[: seed_axis * data_axis]).reshape(seed_axis, data_axis)
    return Mesh(grid, ("seed", "data"), axis_types=(AxisType.Auto,) * 2)


def local_block(mesh: Mesh, seeds: int, global_batch: int) -> tuple[tuple[int, ...], slice]:
    """Returns what this process holds of an array [S, N, ...] sharded P("seed", "data").

    That is (positions of its seeds, its rows of the global batch); both are contiguous. Raises
    ConfigError when the sizes do not divide over the mesh, or a process's devices make no block of
    it.
    """
    groups, replicas = mesh.shape["seed"], mesh.shape["data"]
    if seeds % groups:
        raise ConfigError(f"seeds.count={seeds} does not divide over mesh.seed={groups}")
    if global_batch % replicas:
        raise ConfigError(
            f"data.global_batch={global_batch} does not divide over {replicas} devices "
            f"(mesh.data={replicas}); use a multiple of {replicas}"
        )
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
    held = np.argwhere(owners == jax.process_index())
    low, high = held.min(axis=0), held.max(axis=0) + 1
    if len(held) != np.prod(high - low):
        raise ConfigError(
            f"mesh.seed={groups} x mesh.data={replicas}: the {len(held)} devices of a process make "
            "no block of this mesh; choose mesh.data so that it divides them, or they it"
        )
    seed_span, row_span = seeds // groups, global_batch // replicas
    positions = range(low[0] * seed_span, high[0] * seed_span)
    return tuple(positions), slice(int(low[1]) * row_span, int(high[1]) * row_span)


def is_main() -> bool:
    """Returns whether this is process 0: the one that prints and writes what is written once."""
    return jax.process_index() == 0


class Preemption:
    """Notices SIGTERM and SIGINT, so that all processes save at one step and leave.

    The first signal asks, a second SIGINT raises KeyboardInterrupt where it strikes. With
    jax.distributed its preemption service owns SIGTERM and agrees on a step; SIGINT is passed on to
    it as SIGTERM.
    """

    def __init__(self) -> None:
        """Takes the signals over until `close`; from another thread than the main one, none."""
        self._shared = jax.distributed.is_initialized()
        self._asked = self._interrupted = False
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in [signal.SIGINT] if self._shared else [signal.SIGINT, signal.SIGTERM]:
                self._before[number] = signal.signal(number, self._notice)

    def _notice(self, number, frame) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._asked = True
        self._interrupted = self._interrupted or number == signal.SIGINT
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)

    def requested(self, step: int) -> bool:
        """Returns whether to save at `step` and leave; every process has to ask at every step."""
        if self._shared:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def close(self) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def gather(tree):
    """Returns a copy of a tree of global arrays that every process can fetch, whole.

    It returns before the copy is made, and the originals may be donated after it; `jax.device_get`
    waits.
    """
    leaves = jax.tree.leaves(tree)
    return _replicate(leaves[0].sharding.mesh)(tree) if leaves else tree


@functools.lru_cache
def _replicate(mesh: Mesh):
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=everywhere)


def leave(*, meet: bool = True) -> None:
    """Leaves the cluster when all processes do; who left before would pull the others down.

    meet: wait for however long the others need; without, for SHUTDOWN_TIMEOUT_S at most, which
    suits errors that all processes may find, or only this one.
    """
    if jax.distributed.is_initialized():
        if meet:
            multihost_utils.sync_global_devices("leave")
        jax.distributed.shutdown()
