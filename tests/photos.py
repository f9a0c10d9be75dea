"""Folders of small photographs, JPEG, made on the spot: smooth, so that JPEG keeps them near."""

import numpy as np
from picture_folders import encoded, put
from PIL import Image

SIZES = ((60, 48), (40, 64), (50, 50), (90, 30))  # width, height


def photo(seed, size=SIZES[0]):
    """Returns a picture of a few large patches of colour."""
    patches = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


def put_photos(root, classes=3, train=5, val=2):
    """Writes train/<class>/*.JPEG and val/<class>/*.JPEG; returns the root."""
    for split, count in (("train", train), ("val", val)):
        for label in range(classes):
            for number in range(count):
                seed = 1000 * label + number + (500 if split == "val" else 0)
                size = SIZES[seed % len(SIZES)]
                name = f"n{label}_{number}.JPEG"
                put(root / split / f"n{label}" / name, encoded(photo(seed, size), "JPEG"))
    return root
