"""What every test stands on: 8 CPU devices, strict ranks, a compilation cache that lasts.

All of it is set before jax starts a backend, and holds for each worker of pytest-xdist alike.
"""

import mmap
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

import jax
import jaxlib
import pytest

YNN_FLAG = "xla_cpu_experimental_ynn_fusion_type"
"""Faster compiled cells on CPU; XLA aborts the process on a flag that it does not know."""


def jaxlib_knows(flag: str) -> bool:
    """Returns whether the installed jaxlib has this XLA flag, read from its library's bytes."""
    for library in pathlib.Path(jaxlib.__file__).parent.glob("*.so"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as text:
            if text.find(flag.encode()) >= 0:
                return True
    return False


flags = os.environ.get("XLA_FLAGS", "")
if YNN_FLAG not in flags and jaxlib_knows(YNN_FLAG):
    os.environ["XLA_FLAGS"] = f"{flags} --{YNN_FLAG}=individual_dot".strip()

cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(cache / "darts_dist" / "test-xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def float64():
    """Double precision inside one test."""
    with jax.enable_x64(True):
        yield
