"""Pooling: padding, ties, and both layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darts_dist.nets.layout import LAYOUTS, avg_pool, max_pool

SIZES = [(4, 6), (5, 3), (1, 1)]


def windows(size, stride):
    """The pixels of each window that are inside, row by row."""
    for i in range(0, size[0], stride):
        for j in range(0, size[1], stride):
            yield [
                (a, b)
                for a in range(max(i - 1, 0), min(i + 2, size[0]))
                for b in range(max(j - 1, 0), min(j + 2, size[1]))
            ]


def on_image(pool, layout, stride):
    """A pool on one image [H, W], as a function in the layout."""

    def run(image):
        y = pool(layout.from_images(image[None, :, :, None]), layout, stride)
        return jnp.squeeze(y, (0, -1))

    return run


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("size", SIZES)
def test_only_real_pixels_count(layout, stride, size):
    image = np.random.default_rng(0).normal(size=size).astype(np.float32) - 5
    for pool, of in ((max_pool, np.max), (avg_pool, np.mean)):
        found = on_image(pool, layout, stride)(jnp.asarray(image))
        wanted = [of([image[at] for at in window]) for window in windows(size, stride)]
        np.testing.assert_allclose(np.ravel(found), wanted, rtol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("stride", (1, 2))
def test_the_gradient_of_a_tie_goes_to_the_first_pixel_in_reading_order(layout, stride):
    image = np.random.default_rng(1).integers(0, 2, (5, 6)).astype(np.float32)
    wanted = np.zeros_like(image)
    for window in windows(image.shape, stride):
        wanted[max(window, key=lambda at: image[at])] += 1  # max() takes the first of equals
    pool = on_image(max_pool, layout, stride)
    found = jax.grad(lambda x: pool(x).sum())(jnp.asarray(image))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_direction_moves_the_maximum_as_the_chosen_pixels_move(layout):
    draw = np.random.default_rng(2)
    image, direction = (jnp.asarray(draw.normal(size=(4, 6)), jnp.float32) for _ in range(2))
    pool = on_image(max_pool, layout, 2)
    _, moved = jax.jvp(pool, (image,), (direction,))
    wanted = [
        direction[max(window, key=lambda at: float(image[at]))]
        for window in windows(image.shape, 2)
    ]
    np.testing.assert_array_equal(np.ravel(moved), np.asarray(wanted))

    def curve(image):  # the derivative of sum(pool^2) along the direction
        return jax.jvp(lambda x: jnp.square(pool(x)).sum(), (image,), (direction,))[1]

    chosen = jax.grad(lambda x: pool(x).sum())(image)
    np.testing.assert_allclose(jax.grad(curve)(image), 2 * chosen * direction, rtol=1e-6)
