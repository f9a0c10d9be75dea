"""Copies of a state that come apart are found, and the device that holds the other one is named."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from darts_dist import cluster, replicas


@dataclasses.dataclass
class Parts:
    """A state of two seeds: `weights` on every replica, `rows` cut over them."""

    weights: Any
    rows: Any
    key: Any


def make(mesh, changed=(), bit=1):
    """Returns Parts on a mesh; the copy of the weights on the `changed` devices has another bit."""
    seeds = np.arange(2)
    weights = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    by_seed = NamedSharding(mesh, PartitionSpec("seed"))
    copies = []
    for device, index in by_seed.addressable_devices_indices_map(weights.shape).items():
        own = weights[index].copy()
        if device.id in changed:
            own.view(np.uint32)[..., -1, -1] ^= bit
        copies.append(jax.device_put(own.astype(jnp.bfloat16) if bit > 1 else own, device))
    return Parts(
        {"kernel": jax.make_array_from_single_device_arrays(weights.shape, by_seed, copies)},
        jax.device_put(
            np.arange(16.0).reshape(2, 8), NamedSharding(mesh, PartitionSpec("seed", "data"))
        ),
        jax.device_put(jax.vmap(jax.random.key)(seeds), by_seed),
    )


def test_equal_copies_pass_and_rows_that_are_cut_are_no_copies():
    parts = make(cluster.make_mesh(2, 2, 4))
    found = replicas.digests([parts])
    assert {len(sums) for part, sums in found.items() if not part.startswith("rows")} == {4}
    assert {len(sums) for part, sums in found.items() if part.startswith("rows")} == {1}
    assert replicas.odd_ones([parts, parts]) == ""


@pytest.mark.parametrize("bit", [1, 1 << 16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("device", [0, 3, 6])
def test_the_device_of_a_copy_with_one_other_bit_is_named(device, bit):
    mesh = cluster.make_mesh(2, 2, 4)
    found = replicas.odd_ones([make(mesh), make(mesh, {device}, bit)])
    assert found == f"device {device} of process 0 (weights)"


def test_of_two_copies_nobody_knows_which_is_wrong():
    found = replicas.odd_ones([make(cluster.make_mesh(2, 2, 2), {3})])
    assert found == "device 2 of process 0 (weights); device 3 of process 0 (weights)"
