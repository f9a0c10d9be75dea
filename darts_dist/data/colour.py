"""Changes the colours of pictures at random, on the device: brightness, contrast, saturation, hue.

A part of `augment`, which draws by key and place. Pure jax. Unlike the authors' program nothing is
rounded to 256 levels in between; like there, values stay in 0..1 after each change.

Letters: N pictures, H W pixels.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LUMA = (0.299, 0.587, 0.114)  # of R, G, B in grey: ITU-R 601
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)  # [24, 4]
WORDS = 5


class Jitter(NamedTuple):
    """The random choices for each picture.

    factors: f[N, 3], of brightness, contrast and saturation.  turn: f[N], of the hue, as a share of
    the circle.  order: int32[N, 4], which of the four comes first, second, ...
    """

    factors: jax.Array
    turn: jax.Array
    order: jax.Array


def draw(key, places, recipe, dtype):
    """Returns the Jitter for pictures at these places of the global batch.

    Factors are uniform in 1 - colour_jitter..1 + colour_jitter, turns in +-hue_jitter, orders among
    all 24.
    """

    def words(place):
        return jax.random.bits(jax.random.fold_in(key, place), (WORDS,), jnp.uint32)

    drawn = jax.vmap(words)(places)
    between = 2 * (drawn[:, :4].astype(dtype) / 2.0**32) - 1  # -1..1
    order = jnp.asarray(ORDERS)[(drawn[:, 4] % len(ORDERS)).astype(jnp.int32)]
    factors = 1 + recipe.colour_jitter * between[:, :3]
    return Jitter(factors, recipe.hue_jitter * between[:, 3], order)


def change(images, jitter):
    """Returns pictures f[N, H, W, 3] in 0..1, their colours changed in the order of each."""

    def one(image, factors, turn, order):
        for which in range(4):
            image = _step(image, factors, turn, order[which])
        return image

    return jax.vmap(one)(images, *jitter)


def _step(image, factors, turn, which):
    """Returns one picture after one change.

    Three of them mix it with something else: black, its mean grey, its grey. Every kind is computed
    and one is taken, as a batch mixes orders.
    """
    red, green, blue = (weight * image[..., at, None] for at, weight in enumerate(LUMA))
    grey = red + green + blue
    other = jnp.where(which == BRIGHTNESS, 0, jnp.where(which == CONTRAST, grey.mean(), grey))
    factor = factors[jnp.minimum(which, SATURATION)]
    mixed = jnp.clip(factor * image + (1 - factor) * other, 0, 1)
    return jnp.where(which == HUE, turn_hue(image, turn), mixed)


def turn_hue(image, turn):
    """Returns a picture f[H, W, 3] with all hues turned by a share of the circle.

    Hue, saturation and value are those of HSV: largest and smallest colour of a pixel stay.
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    high, low = image.max(-1), image.min(-1)
    chroma = high - low
    safe = jnp.where(chroma == 0, 1, chroma)
    # Not `high == red`: a compiler may compute one of the two again, with other rounding.
    sector = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / safe,
        jnp.where(green >= blue, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = sector + 6 * turn  # in sixths of the circle; a grey pixel has chroma 0 whatever it is
    at = (hue[..., None] + jnp.array([[[5, 3, 1]]], image.dtype)) % 6
    return high[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(at, 4 - at), 0, 1)
