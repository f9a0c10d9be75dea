"""Turns uint8 pictures into what a network sees, on the device: crop, flip, colours, cutout.

What an example gets depends on the step's key and on the example's place in the global batch alone,
so neither devices nor processes change it. Pure jax: it runs under jit and shard_map. The steps and
their order are those of the authors' code for arXiv 1806.09055.

Letters: N pictures, H W pixels, C channels.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from darts_dist.data import colour
from darts_dist.errors import ConfigError
from darts_dist.rules import STORED

COLOUR = 2**31 - 1  # folded into the key of a step, beside the places of its pictures


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is done to a picture.

    crop_padding_px: zeros on each side, before a crop to the old size at a random offset; 0: none.
    flip: left and right are swapped in half of the pictures.
    cutout_px: side of the square that is set to the mean (an odd one cuts one less); 0: none.
    mean, std: C numbers each, for pictures scaled to 0..1.
    colour_jitter, hue_jitter: how far `colour` goes; 0: not at all.
    """

    crop_padding_px: int
    flip: bool
    cutout_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    colour_jitter: float = 0.0
    hue_jitter: float = 0.0

    @classmethod
    def of(cls, data, mean, std):
        """Returns the recipe of a table of knobs; what lies on disk has been cropped there."""
        return cls(
            crop_padding_px=0 if data.kind in STORED else data.crop_padding_px,
            flip=data.flip,
            cutout_px=data.cutout_px,
            mean=mean,
            std=std,
            colour_jitter=data.colour_jitter,
            hue_jitter=data.hue_jitter,
        )


class Draws(NamedTuple):
    """The random choices for each picture.

    row, column: int32[N] in 0..2*crop_padding_px, where the crop begins in the padded picture.
    flip: bool[N].  centre_row, centre_column: int32[N], the centre of the cutout.
    """

    row: jax.Array
    column: jax.Array
    flip: jax.Array
    centre_row: jax.Array
    centre_column: jax.Array


def augment(key, places, images, recipe, dtype):
    """Returns the pictures, augmented and normalised: dtype[N, H, W, C].

    key: one typed key for (seed, step, stream).  places: int32[N], positions in the global batch.
    images: uint8[N, H, W, C].  dtype: float32, bfloat16 or float64.
    Raises ConfigError when mean or std do not fit the channels.
    """
    _, height, width, _ = images.shape
    draws = draw(key, places, height, width, recipe)
    if recipe.crop_padding_px or recipe.flip:
        images = crop_and_flip(images, draws, recipe.crop_padding_px)
    if recipe.colour_jitter or recipe.hue_jitter:
        wide = jnp.promote_types(dtype, jnp.float32)
        jitter = colour.draw(jax.random.fold_in(key, COLOUR), places, recipe, wide)
        images = 255 * colour.change(images.astype(wide) / 255, jitter)
    images = normalise(images, recipe, dtype)
    return cut_out(images, draws, recipe.cutout_px) if recipe.cutout_px else images


def draw(key, places, height, width, recipe):
    """Returns the Draws for pictures at these places of the global batch.

    A key folded with a place is 64 random bits, and all choices come out of them by division: one
    hash a picture, little to compile. Off from uniform by at most height * width / 2**32.
    """
    words = jax.vmap(lambda place: jax.random.key_data(jax.random.fold_in(key, place)))(places)
    offsets = 2 * recipe.crop_padding_px + 1
    rest, row = jnp.divmod(words[:, 0], jnp.uint32(offsets))
    rest, column = jnp.divmod(rest, jnp.uint32(offsets))
    flip = rest % 2 == 1 if recipe.flip else jnp.zeros_like(rest, bool)
    rest, centre_row = jnp.divmod(words[:, 1], jnp.uint32(height))
    centre_column = rest % jnp.uint32(width)
    whole = [number.astype(jnp.int32) for number in (row, column, centre_row, centre_column)]
    return Draws(whole[0], whole[1], flip, whole[2], whole[3])


def crop_and_flip(images, draws, padding):
    """Returns the pictures padded by zeros, cropped to their size and, where drawn, mirrored.

    images: [N, H, W, C] of any dtype.  One gather; pixels are copied, never mixed.
    """
    _, height, width, _ = images.shape

    def one(image, row, column, flip):
        rows = row + jnp.arange(height)
        columns = jnp.arange(width)
        columns = column + jnp.where(flip, width - 1 - columns, columns)
        return image[rows[:, None], columns[None, :]]

    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return jax.vmap(one)(padded, draws.row, draws.column, draws.flip)


def normalise(images, recipe, dtype):
    """Returns (images / 255 - mean) / std: dtype[N, H, W, C], computed in float32 or more.

    images: uint8[N, H, W, C], or 0..255 of any dtype.  Raises ConfigError when mean or std do not
    fit the channels.
    """
    channels = images.shape[-1]
    for name, values in (("mean", recipe.mean), ("std", recipe.std)):
        if len(values) != channels:
            raise ConfigError(
                f"data.{name} has {len(values)} values and the pictures have {channels} channels; "
                "give one value for each channel"
            )
    wide = jnp.promote_types(dtype, jnp.float32)
    mean, std = (jnp.array(v, wide).reshape(1, 1, 1, channels) for v in (recipe.mean, recipe.std))
    return ((images.astype(wide) / 255 - mean) / std).astype(dtype)


def cut_out(images, draws, cutout_px):
    """Returns the pictures with a square of side 2 * (cutout_px // 2) set to zero.

    images: [N, H, W, C], normalised, so zero is the mean.  The square is cut at the borders.
    Source: Cutout, arXiv 1708.04552.
    """
    _, height, width, _ = images.shape
    half = cutout_px // 2

    def inside(centres, length):
        distance = jnp.arange(length)[None, :] - centres[:, None]
        return (distance >= -half) & (distance < half)

    rows, columns = inside(draws.centre_row, height), inside(draws.centre_column, width)
    hole = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(hole, jnp.zeros((), images.dtype), images)
