"""What every test stands on: 8 CPU devices, strict ranks, a compilation cache that lasts.

All of it is set before jax starts a backend, and holds for each worker of pytest-xdist alike.
"""

import os
import pathlib
import signal
import sys

import jax
import pytest

from darts_dist import xla_flags

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tools"))  # the tools are tested too
# What a shell starts in the background ignores Ctrl-C, what nohup starts a lost terminal, and what
# the tests start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
xla_flags.use_cpu()
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


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drops what a module compiled when it ends: workers that keep it all grow to 10 GB each."""
    yield
    jax.clear_caches()
