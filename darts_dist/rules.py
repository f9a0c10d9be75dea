"""Rules between the knobs of a config, for searches and trainings alike.

Place: layer 0. What a single knob may be is said where it is declared (`knobs`, `textknobs`).
"""

from collections.abc import Sequence
from typing import Any

from darts_dist import schema
from darts_dist.errors import ConfigError
from darts_dist.knobs import DataSource, Weights

STORED = ("imagenet", "array_record")
"""Kinds of data whose pictures stay on disk."""


def check_operations(operations: Sequence[str]) -> None:
    """Raises a ConfigError for candidates that no cell can be made of."""
    for operation in operations:
        if operations.count(operation) > 1:
            fail("space.operations", operations, f"{operation} once")
    if set(operations) <= {"none"}:
        fail("space.operations", operations, "at least one operation besides none")


def check_pictures(network: Any, data: DataSource) -> None:
    """Raises a ConfigError where a network's sizes and the pictures' do not fit each other."""
    if network.image_px % 2:
        fail("network.image_px", network.image_px, "an even number")
    if network.classes == 1:
        fail("network.classes", 1, "at least 2, or 0 for those of the data")
    if data.kind in ("image_folder", *STORED) and network.in_channels not in (1, 3):
        wanted = f"1 (grey) or 3 (colour) for data.kind = {data.kind}"
        fail("network.in_channels", network.in_channels, wanted)
    if data.kind in STORED and network.in_channels == 1 and not (data.mean and data.std):
        key, found = ("data.std", data.std) if data.mean else ("data.mean", data.mean)
        fail(key, found, f"a number for grey pictures of data.kind = {data.kind}")
    for key in ("colour_jitter", "hue_jitter"):
        if getattr(data, key) and network.in_channels != 3:
            fail(f"data.{key}", getattr(data, key), "0 for pictures without three colours")
    for key, values in (("data.mean", data.mean), ("data.std", data.std)):
        if values and len(values) != network.in_channels:
            fail(key, values, f"one for each of network.in_channels = {network.in_channels}")


def auxiliary_px(stem: str, image_px: int, layers: int) -> int:
    """Returns the side of the maps that the auxiliary head of a genotype's network sees.

    They have gone through the stem and every cell that reduces; each halves and rounds up.
    """
    halvings = {"cifar": 0, "imagenet": 3}[stem] + len({layers // 3, 2 * layers // 3})
    return -(-image_px // 2**halvings)


def check_auxiliary(network: Any, weight: float) -> None:
    """Raises a ConfigError where the maps are too small for an auxiliary head."""
    px = auxiliary_px(network.stem, network.image_px, network.layers)
    if weight and px < 2:
        why = f"network.stem = {schema.literal(network.stem)} and image_px = {network.image_px}"
        fail("regularisation.auxiliary_weight", weight, f"0: with {why} its head sees one pixel")


def check_rates(weights: Weights) -> None:
    """Raises a ConfigError for a learning rate that would rise."""
    if weights.learning_rate_min > weights.learning_rate:
        limit = f"at most weights.learning_rate = {weights.learning_rate}"
        fail("weights.learning_rate_min", weights.learning_rate_min, limit)


def check_batch(config: Any) -> None:
    """Raises a ConfigError where batch or seeds do not divide as mesh, norms and debug ask."""
    mesh, batch = config.mesh, config.data.global_batch
    for name in ("nans", "eager"):
        if getattr(config.debug, name) and (mesh.seed, mesh.data) != (1, 1):
            fail(f"debug.{name}", True, "one device with it: mesh.seed=1 mesh.data=1")
    if mesh.seed and config.seeds.count % mesh.seed:
        fail("seeds.count", config.seeds.count, f"a multiple of mesh.seed = {mesh.seed}")
    if mesh.data and batch % mesh.data:
        fail("data.global_batch", batch, f"a multiple of mesh.data = {mesh.data}")
    kind, _, size = config.batch_norm.sync.partition(":")
    local = batch // (mesh.data or 1)
    if kind == "group" and local % int(size):
        part = f"the {local} pictures of a device" if mesh.data else f"data.global_batch = {batch}"
        fail("batch_norm.sync", config.batch_norm.sync, f"groups that divide {part}")


def fail(key: str, found: Any, wanted: str) -> None:
    """Raises the ConfigError of a knob: what was found, and what is wanted."""
    raise ConfigError(f"{key} = {schema.literal(found)}; wanted {wanted}")
