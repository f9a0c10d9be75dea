"""The mesh, what a process holds of it, gathering and signals, in one process of 8 devices."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from darts_dist import agreement, cluster
from darts_dist.errors import ConfigError


@pytest.mark.parametrize(
    ("seeds", "sizes", "shape"),
    [
        (1, (0, 0), (1, 8)),
        (4, (0, 0), (4, 2)),
        (12, (0, 0), (4, 2)),
        (16, (0, 0), (8, 1)),
        (4, (2, 0), (2, 4)),
        (4, (0, 8), (1, 8)),
        (4, (2, 4), (2, 4)),
        (1, (1, 1), (1, 1)),
        (2, (2, 2), (2, 2)),
    ],
)
def test_a_mesh_takes_the_sizes_given_and_chooses_the_rest(seeds, sizes, shape):
    mesh = cluster.make_mesh(seeds, *sizes)
    assert mesh.axis_names == ("seed", "data")
    assert mesh.devices.shape == shape
    ids = [device.id for device in mesh.devices.flat]
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("seeds", "sizes", "said"),
    [
        (4, (3, 0), "mesh.seed=3 does not divide the 8 devices"),
        (4, (0, 16), "mesh.data=16 does not divide the 8 devices"),
        (4, (4, 4), "makes 16 devices, and there are 8"),
        (3, (2, 4), "seeds.count=3 does not divide over mesh.seed=2"),
        (4, (-1, 0), "mesh.seed=-1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(seeds, sizes, said):
    with pytest.raises(ConfigError, match=said):
        cluster.make_mesh(seeds, *sizes)


def test_one_process_holds_the_whole_array():
    mesh = cluster.make_mesh(4)
    assert cluster.local_block(mesh, 4, 16) == ((0, 1, 2, 3), slice(0, 16))
    with pytest.raises(ConfigError, match=r"global_batch=15 does not divide over 2 devices"):
        cluster.local_block(mesh, 4, 15)
    with pytest.raises(ConfigError, match=r"seeds.count=6 does not divide"):
        cluster.local_block(mesh, 6, 16)


class Device:
    """What `local_block` asks of a device."""

    def __init__(self, process_index):
        self.process_index = process_index


class Grid:
    """A mesh over the devices of several processes."""

    def __init__(self, owners):
        self.devices = np.vectorize(Device, otypes=[object])(np.array(owners))
        self.shape = dict(zip(("seed", "data"), self.devices.shape, strict=True))


@pytest.mark.parametrize(
    ("owners", "process", "block"),
    [
        ([[0, 0, 1, 1]], 1, ((0, 1, 2, 3), slice(8, 16))),
        ([[0, 0], [1, 1]], 1, ((2, 3), slice(0, 16))),
        ([[0, 1], [2, 3]], 2, ((2, 3), slice(0, 8))),
    ],
)
def test_a_process_holds_a_contiguous_block(monkeypatch, owners, process, block):
    monkeypatch.setattr(jax, "process_index", lambda: process)
    assert cluster.local_block(Grid(owners), 4, 16) == block


def test_a_process_whose_devices_make_no_block_is_told(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(ConfigError, match="make no block of this mesh"):
        cluster.local_block(Grid([[0, 0, 1], [1, 2, 2]]), 2, 3)


def test_a_gathered_tree_outlives_its_original():
    mesh = cluster.make_mesh(4)
    sharding = NamedSharding(mesh, PartitionSpec("seed"))
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    tree = {"a": jax.device_put(values, sharding), "b": jax.device_put(values[:, 0], sharding)}
    copy = cluster.gather(tree)
    jax.tree.map(lambda leaf: leaf.delete(), tree)
    assert copy["a"].is_fully_replicated
    np.testing.assert_array_equal(jax.device_get(copy)["a"], values)


def test_a_gathered_tree_of_one_device_outlives_its_original():
    sharding = NamedSharding(cluster.make_mesh(1, 1, 1), PartitionSpec())
    original = jax.device_put(np.ones(3, np.float32), sharding)
    copy = cluster.gather([original])
    original.delete()
    np.testing.assert_array_equal(copy[0], np.ones(3, np.float32))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_asks_and_a_second_interrupt_forces(number):
    before = signal.getsignal(number)
    preemption = cluster.Preemption()
    try:
        assert not preemption.requested(1)
        os.kill(os.getpid(), number)
        assert preemption.requested(2)
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    finally:
        preemption.close()
    assert signal.getsignal(number) is before


def test_one_process_is_the_main_one_and_agrees_with_itself(tmp_path):
    assert cluster.is_main()
    agreement.check_devices()
    agreement.check_same({"a fact": "a text"})
    agreement.check_folder(epath.Path(tmp_path))
    assert agreement.together(lambda: 3) == 3
    assert list(tmp_path.iterdir()) == []
    cluster.leave()


PROGRAM = """
import sys
from darts_dist import cluster
cluster.start(**eval(sys.argv[1]))
import jax, jax.numpy as jnp
print(jax.device_count(), jnp.ones(2, jnp.float64 if jax.config.jax_enable_x64 else None).dtype,
      jax.jit(lambda x: jnp.tanh(x).sum())(jnp.ones(3)).shape, jax.config.jax_compilation_cache_dir)
"""


def started(tmp_path, settings, **environment):
    """Returns what a new process says after `start(**settings)`: its stdout's words, its stderr."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JAX")}
    inherited.pop("XLA_FLAGS", None)
    inherited |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path), **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, repr(settings)],
        env=inherited,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


def test_start_sets_devices_types_and_a_cache(tmp_path):
    words, errors = started(tmp_path, {"platform": "cpu", "cpu_devices": 3, "float64": True})
    assert words == ["3", "float64", "()", str(tmp_path / "darts_dist" / "xla")]
    assert errors == ""


@pytest.mark.parametrize("eager", (True, False))
def test_single_operations_are_worth_keeping_where_all_are_single(tmp_path, eager):
    words, _ = started(tmp_path, {"platform": "cpu", "eager": eager})
    assert any(pathlib.Path(words[-1]).glob("jit_*")) is eager


@pytest.mark.parametrize(
    "environment",
    [
        {"JAX_NUM_CPU_DEVICES": "2"},
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    ],
)
def test_the_environment_wins_over_the_number_of_devices(tmp_path, environment):
    words, _ = started(tmp_path, {"cpu_devices": 3, "cache": False}, **environment)
    assert words == ["2", "float32", "()", "None"]


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    words, errors = started(tmp_path, {"cache_dir": str(tmp_path / "file" / "cache")})
    assert words[-1] == "None"
    assert errors.startswith("warning: no compilation cache in")
