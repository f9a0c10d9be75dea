"""Devices that are not there, for a mesh to compile for; and what jax has to be told before.

Place: layer 0, beside `cluster`, whose mesh these devices are laid out in. It knows no config: the
names are those of `machines`. What is compiled for such devices cannot run.
"""

import importlib.util
import os
import re
import sys
from typing import Any

import jax
from jax.experimental import topologies

from darts_dist import xla_flags
from darts_dist.errors import InputError
from darts_dist.machines import GPUS_OF_A_HOST, Topology

EXTRAS = {"tpu": ("libtpu",), "cuda": ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")}
ENVIRONMENT = {
    "cpu": {},
    "tpu": {  # no question to a server that tells a TPU's machine what it is
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any that it knows; the topology decides
        "TPU_STDERR_LOG_LEVEL": "4",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two plans at a time: neither touches a TPU
    },
    "cuda": {},
}
NOT_CPU = {"xla_disable_hlo_passes": "none"}  # or cluster.start would take one out for the CPU
GPU = {
    "xla_gpu_autotune_level": "0",  # it would time kernels on the GPU
    # XLA of jaxlib 0.10.2 aborts in it on products of a search (triton_tiling_propagation.cc).
    "xla_gpu_enable_triton_gemm": "false",
}
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""XLA's GpuTargetConfigProto of that GPU, as text."""


def set_environment(topology: Topology) -> None:
    """Sets what jax, XLA and their plugins read when they start; InputError without the plugin.

    Devices of other platforms are left alone: only the CPU is started.
    """
    platform = topology.platform
    if platform in EXTRAS and not any(map(_installed, EXTRAS[platform])):
        raise InputError(
            f"topology={topology.text}: the compiler for {platform} is not installed; "
            f'pip install "darts-dist[{platform}]"'
        )
    for name, value in ENVIRONMENT[platform].items():
        os.environ.setdefault(name, value)
    os.environ.pop("JAX_PLATFORMS", None)  # or cluster.start would leave the choice to it
    flags = os.environ.get("XLA_FLAGS", "")
    if platform == "cpu":
        flags = xla_flags.without_count(flags)
    else:
        wanted = NOT_CPU | (GPU if platform == "cuda" else {})
        missing = [f"--{name}={value}" for name, value in wanted.items() if name not in flags]
        flags = " ".join([flags, *missing])
    os.environ["XLA_FLAGS"] = flags.strip()


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that is not there either
        return False


def devices(topology: Topology) -> list[Any]:
    """Returns the devices of a topology, once jax has started; those of `cpu` are real."""
    if topology.platform == "cpu":
        found = jax.devices("cpu")
        if len(found) < topology.count:
            raise InputError(
                f"topology={topology.text}: jax has started with {len(found)} CPU devices already; "
                "take JAX_NUM_CPU_DEVICES out of the environment"
            )
        return found[: topology.count]
    settings: dict[str, Any] = {"topology_name": topology.text}
    if topology.platform == "cuda":
        count = topology.count
        hosts, own = max(count // GPUS_OF_A_HOST, 1), min(count, GPUS_OF_A_HOST)
        grid = f"1x{hosts}x{own}"
        settings = {"topology_name": grid, "topology": grid, "target_config": H100}
    try:
        described = topologies.get_topology_desc(platform=topology.platform, **settings)
    except RuntimeError as error:  # jax's own, of a shape that the compiler's library refuses
        reason = re.sub(r"^[A-Z_]+: ", "", (str(error).strip() or repr(error)).splitlines()[0])
        raise InputError(f"topology={topology.text} cannot be: {reason}") from None
    print(f"compiling for {topology.count} x {topology.kind}", file=sys.stderr, flush=True)
    return list(described.devices)


def compiler(devices: list[Any]) -> str:
    """Returns what the compiler for devices says of its version."""
    return str(devices[0].client.platform_version)
