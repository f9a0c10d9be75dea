"""Changes of colour against the closed formulas, in float64, and what is drawn for them."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darts_dist import config
from darts_dist.data import augment, colour
from darts_dist.data.augment import Recipe
from darts_dist.errors import ConfigError
from darts_dist.knobs import Data

KEY = functools.partial(jax.random.key, 3)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
FULL = Recipe(0, True, 0, MEAN, STD, colour_jitter=0.4, hue_jitter=0.2)
change = jax.jit(colour.change)
augmented = jax.jit(augment.augment, static_argnames=("recipe", "dtype"))


def pictures(count=24, side=6):
    """Pictures with grey, black, white and pure pixels among the others."""
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    images[:, 0, :6] = [[0] * 3, [255] * 3, [90] * 3, [255, 0, 0], [0, 255, 0], [0, 0, 255]]
    return images


def plain(image, factors, turn, order):
    """The four changes of one picture in 0..1, one after the other; hues by `colorsys`."""
    brightness, contrast, saturation = factors

    def grey(image):
        return image @ [0.299, 0.587, 0.114]

    def turned(pixel):
        hue, share, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + turn) % 1, share, value)

    changes = [
        lambda x: brightness * x,
        lambda x: contrast * x + (1 - contrast) * grey(x).mean(),
        lambda x: saturation * x + (1 - saturation) * grey(x)[..., None],
        lambda x: np.array([turned(pixel) for pixel in x.reshape(-1, 3)]).reshape(x.shape),
    ]
    for which in order:
        image = np.clip(changes[which](image), 0, 1)
    return image


def jitter_of(count=24):
    """Every order once, with factors and turns all over."""
    rng = np.random.default_rng(1)
    return colour.Jitter(
        rng.uniform(0.0, 2.0, (count, 3)), rng.uniform(-0.5, 0.5, count), colour.ORDERS[:count]
    )


def test_colours_change_by_the_closed_formulas_in_every_order(float64):
    images, jitter = pictures() / 255, jitter_of()
    wanted = [plain(image, *(one[at] for one in jitter)) for at, image in enumerate(images)]
    found = change(jnp.asarray(images), jitter)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_factors_of_one_and_no_turn_change_nothing(float64):
    images = pictures() / 255
    nothing = colour.Jitter(np.ones((24, 3)), np.zeros(24), colour.ORDERS)
    np.testing.assert_allclose(change(jnp.asarray(images), nothing), images, atol=1e-14)


def test_float32_is_near_the_float64(float64):
    images, jitter = pictures() / 255, jitter_of()
    wide = change(jnp.asarray(images), jitter)
    narrow = jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == float else x, jitter)
    found = change(jnp.asarray(images, jnp.float32), narrow)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wide, atol=1e-4)


def test_what_is_drawn_is_uniform_in_its_ranges_and_orders_are_equally_frequent():
    count = 24_000
    drawn = jax.jit(colour.draw, static_argnums=(2, 3))(KEY(), jnp.arange(count), FULL, jnp.float32)
    scaled = [*((np.asarray(drawn.factors).T - 1) / 0.4), np.asarray(drawn.turn) / 0.2]
    for values in scaled:
        assert -1 <= values.min() < -0.99 and 0.99 < values.max() <= 1
        counts = np.histogram(values, 10, (-1, 1))[0]
        assert ((counts - count / 10) ** 2 / (count / 10)).sum() < 9 + 6 * np.sqrt(18)
    assert abs(np.corrcoef(scaled) - np.eye(4)).max() < 0.03
    _, counts = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(counts) == 24 and ((counts - 1000) ** 2 / 1000).sum() < 23 + 6 * np.sqrt(46)


def test_augmentation_changes_colours_after_the_flip_and_before_normalising():
    images, places = pictures(), jnp.arange(24)
    drawn = augment.draw(KEY(), places, 6, 6, FULL)
    jitter = colour.draw(jax.random.fold_in(KEY(), augment.COLOUR), places, FULL, jnp.float32)
    wanted = []
    for at, image in enumerate(images):
        flipped = image[:, ::-1] if drawn.flip[at] else image
        changed = plain(
            flipped / 255, *(np.asarray(one[at], float) for one in jitter[:2]), jitter[2][at]
        )
        wanted.append((changed - MEAN) / STD)
    found = augmented(KEY(), places, images, FULL, jnp.float32)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_an_example_depends_on_its_place_and_not_on_its_neighbours():
    images = pictures()
    whole = augmented(KEY(), jnp.arange(24), images, FULL, jnp.float32)
    part = augmented(KEY(), jnp.arange(24)[5:9], images[5:9], FULL, jnp.float32)
    np.testing.assert_allclose(part, whole[5:9], atol=1e-6)


@pytest.mark.parametrize("kind", ["imagenet", "array_record", "cifar10"])
def test_the_recipe_of_a_config_pads_no_pictures_that_were_cropped_on_the_host(kind):
    recipe = Recipe.of(Data(kind=kind, colour_jitter=0.4, hue_jitter=0.2, cutout_px=3), MEAN, STD)
    padding = 4 if kind == "cifar10" else 0
    assert recipe == Recipe(padding, True, 3, MEAN, STD, colour_jitter=0.4, hue_jitter=0.2)


def test_colours_of_grey_pictures_are_refused():
    for knob in ("colour_jitter", "hue_jitter"):
        given = ("network.in_channels=1", f"data.{knob}=0.1")
        with pytest.raises(ConfigError, match=rf"data\.{knob} = 0\.1; wanted 0"):
            config.parse("", "a test", overrides=given)
