import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from darts_dist.data.augment import Recipe, augment, crop_and_flip, cut_out, draw, normalise
from darts_dist.errors import ConfigError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
FULL = Recipe(crop_padding_px=4, flip=True, cutout_px=6, mean=MEAN, std=STD)
PLAIN = Recipe(crop_padding_px=0, flip=False, cutout_px=0, mean=MEAN, std=STD)
KEY = functools.partial(jax.random.key, 7)
augmented = jax.jit(augment, static_argnames=("recipe", "dtype"))


def recipe(**changes):
    return Recipe(**{**vars(FULL), **changes})


def pictures(count, height=12, width=10, channels=3):
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def reference(images, draws, recipe):
    """The same by plain numpy, a picture and a step at a time, in float64."""
    out = []
    p, half = recipe.crop_padding_px, recipe.cutout_px // 2
    for n, image in enumerate(images):
        height, width, _ = image.shape
        padded = np.pad(image, ((p, p), (p, p), (0, 0)))
        row, column = int(draws.row[n]), int(draws.column[n])
        one = padded[row : row + height, column : column + width]
        if draws.flip[n]:
            one = one[:, ::-1]
        one = (one / 255 - np.array(recipe.mean)) / np.array(recipe.std)
        y, x = int(draws.centre_row[n]), int(draws.centre_column[n])
        one[max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        out.append(one)
    return np.stack(out)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cutout_px": 0},
        {"flip": False},
        {"crop_padding_px": 0},
        {"crop_padding_px": 0, "flip": False},
        {"cutout_px": 1},
        {"cutout_px": 5},
        {"cutout_px": 40},
        {"crop_padding_px": 13},
    ],
)
def test_augmentation_is_what_plain_numpy_makes_of_the_same_draws(changes):
    images, places = pictures(24), jnp.arange(24)
    one = recipe(**changes)
    expected = reference(images, draw(KEY(), places, 12, 10, one), one)
    found = augmented(KEY(), places, images, one, jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 1), (5, 9, 4), (32, 32, 3)])
def test_any_size_and_any_channels_work(height, width, channels):
    one = recipe(mean=(0.5,) * channels, std=(0.1,) * channels)
    images, places = pictures(6, height, width, channels), jnp.arange(6)
    expected = reference(images, draw(KEY(), places, height, width, one), one)
    found = augmented(KEY(), places, images, one, jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def test_crop_and_flip_copy_every_pixel_exactly():
    one = recipe(cutout_px=0, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    draws = draw(KEY(), jnp.arange(24), 12, 10, one)
    found = crop_and_flip(jnp.asarray(pictures(24)), draws, 4)
    assert found.dtype == jnp.uint8
    np.testing.assert_array_equal(found, np.round(reference(pictures(24), draws, one)))


def test_float64_is_computed_in_float64(float64):
    images, places = pictures(8), jnp.arange(8)
    expected = reference(images, draw(KEY(), places, 12, 10, FULL), FULL)
    found = augmented(KEY(), places, images, FULL, jnp.float64)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-14)


def test_bfloat16_is_the_rounded_float32():
    images, places = pictures(8), jnp.arange(8)
    wide = augmented(KEY(), places, images, FULL, jnp.float32)
    found = augmented(KEY(), places, images, FULL, jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, wide.astype(jnp.bfloat16))


def test_an_example_depends_on_its_place_and_not_on_its_neighbours():
    images = pictures(16)
    whole = augmented(KEY(), jnp.arange(16), images, FULL, jnp.float32)
    for rows in (slice(0, 8), slice(8, 16), slice(5, 6)):
        part = augmented(KEY(), jnp.arange(16)[rows], images[rows], FULL, jnp.float32)
        np.testing.assert_array_equal(part, whole[rows])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_eight_devices_make_what_one_makes_for_each_seed(dtype):
    mesh = jax.make_mesh((2, 4), ("seed", "data"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    images = np.stack([pictures(16), pictures(16)[::-1]])
    keys = jax.random.split(KEY(), 2)

    def block(keys, images):
        count = images.shape[1]
        places = jax.lax.axis_index("data") * count + jnp.arange(count)
        return augment(keys[0], places, images[0], FULL, dtype)[None]

    specs = {"in_specs": (P("seed"), P("seed", "data")), "out_specs": P("seed", "data")}
    sharded = jax.jit(jax.shard_map(block, mesh=mesh, check_vma=True, **specs))(keys, images)
    for seed in range(2):
        alone = augmented(keys[seed], jnp.arange(16), images[seed], FULL, dtype)
        np.testing.assert_array_equal(sharded[seed], alone)


def test_a_replicated_key_and_replicated_pictures_pass_under_shard_map():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def block(key, images):
        return augment(key, jnp.arange(4), images, FULL, jnp.float32)

    sharded = jax.jit(jax.shard_map(block, mesh=mesh, in_specs=(P(), P()), out_specs=P()))
    alone = augmented(KEY(), jnp.arange(4), pictures(4), FULL, jnp.float32)
    np.testing.assert_array_equal(sharded(KEY(), pictures(4)), alone)


def chi_square(values, kinds):
    """How far counts are from equal; about kinds, give or take sqrt(2 * kinds), for fair ones."""
    counts = np.bincount(values, minlength=kinds)
    assert len(counts) == kinds
    expected = len(values) / kinds
    return ((counts - expected) ** 2 / expected).sum()


def test_draws_are_uniform_and_independent():
    count = 40_000
    draws = jax.jit(draw, static_argnums=(2, 3, 4))(KEY(), jnp.arange(count), 12, 10, FULL)
    row, column, flip, y, x = (np.asarray(value).astype(int) for value in draws)
    sized = [(row, 9), (column, 9), (flip, 2), (y, 12), (x, 10)]
    for index, (values, kinds) in enumerate(sized):
        assert chi_square(values, kinds) < kinds + 6 * np.sqrt(2 * kinds)
        for others, other_kinds in sized[:index]:
            both = kinds * other_kinds
            assert chi_square(values * other_kinds + others, both) < both + 6 * np.sqrt(2 * both)
        following = chi_square(values[1:] * kinds + values[:-1], kinds**2)
        assert following < kinds**2 + 6 * np.sqrt(2 * kinds**2)


def test_another_key_gives_other_draws():
    one = augmented(jax.random.key(0), jnp.arange(8), pictures(8), FULL, jnp.float32)
    other = augmented(jax.random.key(1), jnp.arange(8), pictures(8), FULL, jnp.float32)
    assert not np.array_equal(one, other)


def test_cutout_is_clipped_at_the_borders_as_the_original_does():
    images = jnp.ones((3, 32, 32, 1))
    centres = jnp.array([0, 20, 31])
    draws = draw(KEY(), jnp.arange(3), 32, 32, FULL)
    draws = draws._replace(centre_row=centres, centre_column=jnp.array([16, 16, 16]))
    holes = np.asarray(cut_out(images, draws, 16))[..., 0] == 0
    assert holes.any(axis=2).sum(axis=1).tolist() == [8, 16, 9]
    assert holes.any(axis=1).sum(axis=1).tolist() == [16, 16, 16]


def test_normalising_alone_is_augmenting_with_nothing():
    images = pictures(4)
    plain = jax.jit(normalise, static_argnums=(1, 2))(images, FULL, jnp.float32)
    np.testing.assert_allclose(plain, (images / 255 - MEAN) / STD, rtol=1e-5, atol=1e-6)
    nothing = augmented(KEY(), jnp.arange(4), images, PLAIN, jnp.float32)
    np.testing.assert_array_equal(nothing, plain)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_statistics_of_another_number_of_channels_are_named(name):
    with pytest.raises(ConfigError, match=rf"data\.{name} has 1 values .* 3 channels"):
        normalise(pictures(2), recipe(**{name: (0.5,)}), jnp.float32)
