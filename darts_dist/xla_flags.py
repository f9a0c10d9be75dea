"""XLA's flags, which it reads from the environment variable XLA_FLAGS when jax first needs it.

Place: layer 0, for `cluster`. A flag that the user has set stays. XLA aborts on a name that it does
not know, and has no list of its flags: names are looked up in the bytes of its libraries
(milliseconds), jaxlib's and, where they are installed, those of jax's plugins for GPUs.
"""

import importlib.util
import mmap
import os
import pathlib

import jaxlib

from darts_dist.errors import ConfigError

CPU = {
    # The default fuses reductions with multiplies and then writes their broadcasts out to memory.
    "xla_cpu_experimental_ynn_fusion_type": "individual_dot",
    # A third less compile time, and steps as fast as before.
    "xla_backend_extra_options": "xla_cpu_disable_loop_unrolling,xla_cpu_disable_slp_vectorizer",
}
# Passes that are left out. The first takes optimisation barriers out before kernels are fused,
# where they would mean nothing; compilers for other platforms cannot do without it. The second
# splits every sum over more than 32 numbers in three: what is summed is then written to memory
# first. Over pixels that takes ten times as long; a step of a recurrent network, half as long.
KEEP_BARRIERS, WHOLE_SUMS = "cse_barrier_expander", "tree_reduction_rewriter"
CPU_EAGER = {
    # A program of one operation has nothing to fuse, and compiles in two thirds of the time.
    "xla_cpu_use_fusion_emitters": "false",
}
COUNT = "xla_force_host_platform_device_count"  # of CPU devices
DETERMINISTIC = {
    # No kernel is chosen by measuring how fast it is, and none sums up in whatever order comes.
    "xla_gpu_deterministic_ops": "true",
    "xla_gpu_exclude_nondeterministic_ops": "true",
}


def use_cpu(*, platform: str = "", eager: bool = False, recurrent: bool = False) -> None:
    """Adds the flags that make XLA for CPU compile faster and run faster.

    platform: that jax is told to use, unless JAX_PLATFORMS says.  eager: for many small programs.
    recurrent: for networks of texts.
    Raises ConfigError for a flag of the user that XLA does not know.
    """
    flags = CPU | (CPU_EAGER if eager else {})
    if _cpu_alone(platform):
        passes = (KEEP_BARRIERS,) if recurrent else (KEEP_BARRIERS, WHOLE_SUMS)
        flags["xla_disable_hlo_passes"] = ",".join(passes)
    given = [flag.partition("=")[0][2:] for flag in _flags() if flag.startswith("--")]
    unknown = _unknown([*given, *flags])
    for name in given:
        if name in unknown:
            raise ConfigError(f"XLA_FLAGS has --{name}, unknown to this jaxlib; take it out")
    _add({name: value for name, value in flags.items() if name not in unknown})


def without_count(flags: str) -> str:
    """Returns XLA_FLAGS without the number of CPU devices."""
    return " ".join(one for one in flags.split() if not one.startswith(f"--{COUNT}="))


def use_deterministic() -> None:
    """Adds the flags for GPU programs that give the same bits each time; ConfigError without."""
    unknown = _unknown([*DETERMINISTIC])
    _add({name: value for name, value in DETERMINISTIC.items() if name not in unknown})
    for name, value in DETERMINISTIC.items():
        if name in unknown:
            raise ConfigError(f"precision.deterministic = true: --{name} is unknown to this jaxlib")
        if f"--{name}={value}" not in _flags():
            raise ConfigError(
                f"precision.deterministic = true needs --{name}={value}, and XLA_FLAGS has it "
                "otherwise; take it out there"
            )


def _cpu_alone(platform: str) -> bool:
    """Whether jax will start no other platform than the CPU."""
    asked = os.environ.get("JAX_PLATFORMS") or platform
    if asked:
        return asked == "cpu"
    return not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))


def _flags() -> list[str]:
    return os.environ.get("XLA_FLAGS", "").split()


def _add(flags: dict[str, str]) -> None:
    for name, value in flags.items():
        before = os.environ.get("XLA_FLAGS", "")
        if name not in before:
            os.environ["XLA_FLAGS"] = f"{before} --{name}={value}".strip()


def _unknown(names: list[str]) -> set[str]:
    """Returns those of the names that a library of XLA here does not know."""
    libraries = [pathlib.Path(jaxlib.__file__).parent / "libjax_common.so"]
    plugins = importlib.util.find_spec("jax_plugins")
    for folder in (plugins and plugins.submodule_search_locations) or ():
        libraries += pathlib.Path(folder).glob("xla_cuda*/xla_cuda_plugin.so")
    unknown = set()
    for library in filter(pathlib.Path.exists, libraries):
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            unknown |= {name for name in names if data.find(name.encode() + b"\0") < 0}
    return unknown
