"""A search step over a network that compiles in seconds, and states and pictures for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from darts_dist import cluster
from darts_dist import config as configs
from darts_dist.programs import BATCH, SEED
from darts_dist.searchstep import SearchStep
from darts_dist.seedwork import DTYPES

PX, CLASSES, ROWS, EPOCH_STEPS = 8, 3, 8, 2
SIZES = (
    'space.operations=["none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3"]',
    "network.nodes=1",
    "network.channels=2",
    "network.layers=3",
    f"network.image_px={PX}",
    f"data.global_batch={ROWS}",
    "precision.compute=float64",
    "data.crop_padding_px=1",
    "data.cutout_px=2",
    "weights.weight_decay=0.01",
    "weights.clip_norm=0.1",  # less than the norms here
)
SHOWN = {"classes": CLASSES, "mean": (0.5,) * 3, "std": (0.3,) * 3, "epoch_steps": EPOCH_STEPS}


def config_of(*changes):
    """Returns the config of a small search; changes: texts `key.path=VALUE`."""
    return configs.parse("", "a test", overrides=(*SIZES, *changes))


def search(*changes):
    """Returns the step of a small search, not compiled."""
    config = config_of(*changes)
    mesh = cluster.make_mesh(config.seeds.count, config.mesh.seed, config.mesh.data)
    return SearchStep(config, mesh, **SHOWN)


def begun(step):
    """Returns a state of seeds 0, 1, ... with large alphas and momentum buffers: all terms count.

    For a step with one block.
    """
    (state,) = step.init(range(step.config.seeds.count))
    rng = np.random.default_rng(0)

    def drawn(tree):
        tree = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), tree)
        return step.place(tree, SEED, whole=True)

    buffers = drawn(optax.tree.get(state.weight_opt, "trace"))
    weight_opt = optax.tree.set(state.weight_opt, trace=buffers)
    return dataclasses.replace(state, alphas=drawn(state.alphas), weight_opt=weight_opt)


def prepared(step, seed):
    """Returns (train, valid) of one prepared batch for every seed, as numpy [S, N, ...]."""
    rng = np.random.default_rng(seed)
    dtype, shape = DTYPES[step.config.precision.compute], (step.config.seeds.count, ROWS)

    def one():
        images = rng.normal(size=(*shape, PX, PX, 3)).astype(dtype)
        return images, rng.integers(0, CLASSES, shape, np.int32)

    return one(), one()


def pictures(seeds, steps):
    """Returns one global batch a step for so many seeds, uint8 [S, N, H, W, C], of both streams."""
    rng = np.random.default_rng(1)

    def one():
        images = rng.integers(0, 256, (seeds, ROWS, PX, PX, 3), np.uint8)
        return {"image": images, "label": rng.integers(0, CLASSES, (seeds, ROWS), np.int32)}

    return [{"train": one(), "valid": one()} for _ in range(steps)]


def run(step, seeds, batches, rate=0.025):
    """Returns the blocks of these seeds and all steps' metrics, after one step a batch."""
    blocks, seen = step.init(seeds), []
    for batch in batches:
        placed = [
            step.place(jax.tree.map(lambda x, b=b: x[b :: step.blocks], batch), BATCH, whole=True)
            for b in range(step.blocks)
        ]
        blocks, metrics = step(blocks, placed, rate)
        seen.append(copied(step.join(metrics)))
    return blocks, seen


def copied(tree):
    """Returns a tree's values as numpy, that donation cannot take."""

    def copy(x):
        typed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(x) if typed else x)

    return jax.tree.map(copy, tree)


def of_seed(tree, at):
    """Returns the values of one seed, by its position."""
    return jax.tree.map(lambda x: x[at], tree)


def same(found, wanted):
    """Asserts that two trees are equal to the bit."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def near(found, wanted, rtol):
    """Asserts that two trees differ by less than `rtol` of each leaf's largest entry."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        limit, name = rtol * np.abs(b).max(), jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=0, atol=limit, err_msg=name)
