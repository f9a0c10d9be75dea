"""Packing: a state of many leaves as few arrays, with what tells a good copy from a bad one.

Place: layer 2; `checkpoint` saves what is packed here. Every leaf has a leading seed axis; the
leaves of one dtype become one row for each seed, and a row has a crc32. It touches no disk.
Letters: `S` seeds, `M` elements of all leaves of one dtype and one seed, `D` dtypes.
"""

import dataclasses
import functools
import hashlib
import math
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from darts_dist import cluster
from darts_dist.errors import CheckpointError

CRC = "crc32"  # name of the array of sums, beside those named after dtypes


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf of the state as it lies in its packed row; shape includes the leading S."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    row: str  # dtype that it is stored as
    offset: int
    size: int  # elements for one seed


def describe(tree: Any) -> tuple[list, tuple[Leaf, ...], Mesh]:
    """Returns the leaves, how they are packed, and the mesh that they are on."""
    layout, widths = [], {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        raw = _raw_like(leaf)
        row, size = str(raw.dtype), math.prod(raw.shape[1:])
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        layout.append(Leaf(name, str(leaf.dtype), leaf.shape, row, widths.get(row, 0), size))
        widths[row] = widths.get(row, 0) + size
    leaves = jax.tree.leaves(tree)
    return leaves, tuple(layout), leaves[0].sharding.mesh


def by_seed(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of everything packed: rows over "seed", copies over "data"."""
    return NamedSharding(mesh, PartitionSpec("seed"))


def _raw(leaf):
    """Returns a leaf as numbers: the words of a random key, anything else as it is."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _raw_like(leaf):
    """Returns something with the shape and dtype of `_raw(leaf)`; a trace for each leaf is slow."""
    return jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@functools.lru_cache
def packer(mesh: Mesh, layout: tuple[Leaf, ...]):
    """Returns the program that packs leaves [S, ...] into arrays [S, M] by dtype."""

    def pack(leaves):
        rows = {}
        for leaf, place in zip(leaves, layout, strict=True):
            rows.setdefault(place.row, []).append(_raw(leaf).reshape(place.shape[0], place.size))
        return {name: jnp.concatenate(parts, axis=1) for name, parts in rows.items()}

    return jax.jit(pack, out_shardings=by_seed(mesh))


def shapes(layout: tuple[Leaf, ...]) -> dict[str, tuple[int, int]]:
    """Returns the shapes [S, M] of the packed arrays by dtype, and [S, D] of their sums."""
    seeds = layout[0].shape[0]
    widths = {leaf.row: leaf.offset + leaf.size for leaf in layout}  # the last one's end
    return {name: (seeds, width) for name, width in {**widths, CRC: len(widths)}.items()}


def unpack(packed: dict[str, np.ndarray], layout: tuple[Leaf, ...], like: list) -> list[jax.Array]:
    """Returns the leaves of packed arrays, in the shardings of `like`; the undoing of `packer`."""
    leaves = []
    for place, wanted in zip(layout, like, strict=True):
        flat = packed[place.row][:, place.offset : place.offset + place.size]
        values = flat.reshape(_raw_like(wanted).shape)
        leaf = jax.make_array_from_callback(
            values.shape, wanted.sharding, lambda index, values=values: values[index]
        )
        if _is_key(wanted):
            leaf = jax.random.wrap_key_data(leaf, impl=_key_kind(wanted.dtype))
        leaves.append(leaf)
    return leaves


def _key_kind(dtype) -> str:
    for kind in ("threefry2x32", "rbg", "unsafe_rbg"):
        if jax.eval_shape(functools.partial(jax.random.key, impl=kind), 0).dtype == dtype:
            return kind
    raise CheckpointError(f"random keys of the kind {dtype} are not known")


def _row_names(packed) -> list[str]:
    return sorted(name for name in packed if name != CRC)


def _rows(array: jax.Array) -> dict[int, np.ndarray]:
    """Returns the rows of an array [S, ...] that this process holds, by place."""
    rows = {}
    for shard in array.addressable_shards:
        places = range(array.shape[0])[shard.index[0]]
        if places[0] not in rows:
            rows.update(zip(places, np.asarray(shard.data), strict=True))
    return rows


def sums(packed: dict[str, jax.Array], mesh: Mesh) -> jax.Array:
    """Returns u32[S, D], the crc32 of each row, made where the rows are."""
    names = _row_names(packed)
    sums = np.zeros((packed[names[0]].shape[0], len(names)), np.uint32)
    for column, name in enumerate(names):
        for place, row in _rows(packed[name]).items():
            sums[place, column] = zlib.crc32(row.tobytes())
    return jax.make_array_from_callback(sums.shape, by_seed(mesh), lambda index: sums[index])


def broken_rows(packed: dict[str, np.ndarray]) -> list[str]:
    """Returns the names of the rows, dtype and seed's place, whose sum differs from the stored one.

    packed: arrays [S, M] by dtype, and u32[S, D] under "crc32", D in the order of the sorted names.
    """
    return [
        f"{name} of seed {place}"
        for column, name in enumerate(_row_names(packed))
        for place, row in enumerate(packed[name])
        if zlib.crc32(row.tobytes()) != int(packed[CRC][place, column])
    ]


def digests(state: Any) -> list[str]:
    """Returns for each seed the SHA-256 of its state as hexadecimal text.

    It runs over the leaves in tree order: name, dtype, shape, bytes; it is the same on every
    process, on any mesh and beside any other seeds.
    """
    leaves, layout, mesh = describe(state)
    packed = {name: _rows(array) for name, array in packer(mesh, layout)(leaves).items()}
    seeds = layout[0].shape[0]
    own = np.zeros((seeds, hashlib.sha256().digest_size), np.uint8)
    for place in next(iter(packed.values())):
        content = hashlib.sha256()
        for leaf in layout:
            row = packed[leaf.row][place][leaf.offset : leaf.offset + leaf.size]
            content.update(f"{leaf.name} {leaf.dtype} {leaf.shape[1:]}\n".encode())
            content.update(row.tobytes())
        own[place] = np.frombuffer(content.digest(), np.uint8)
    held = jax.make_array_from_callback(own.shape, by_seed(mesh), lambda index: own[index])
    return [bytes(row).hex() for row in np.asarray(cluster.gather(held))]


def digest(seeds: Sequence[str]) -> str:
    """Returns the SHA-256 of the states of all seeds, whose own `digests` are given in order."""
    return hashlib.sha256("".join(seeds).encode()).hexdigest()
