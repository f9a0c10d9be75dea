"""Cuts what a network sees out of an encoded picture: at random in training, the centre otherwise.

Plain numpy and Pillow, on the host. Where a random crop lies is a pure function of random words,
which `pipeline` draws; the rest of augmentation is the device's (`augment`).

Letters: H W pixels of the picture, C channels.
"""

import io
import math

import numpy as np
from PIL import Image

from darts_dist.data.folder import FORMATS, MODES, in_mode

ASPECT = (3 / 4, 4 / 3)
TRIES = 10
WORDS = 52  # random words of a picture: five a try, and whole blocks of Philox, four each
SHORT = (256, 224)  # for evaluation the short side is 256 where the square from it is 224
SCALES = (8, 4, 2)  # that JPEG can be decoded at


def random_box(
    words: np.ndarray, width: int, height: int, area_min: float
) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom) of a random crop, in pixels.

    words: uint64[WORDS].  area_min: smallest share of the picture's area.  The share is uniform in
    area_min..1, one side over the other uniform in 3/4..4/3, then width and height change places in
    half of the cases; the first of ten such sizes that fits is put anywhere. If none fits it is the
    largest square in the centre.  Source: RandomResizedCrop of torchvision 0.2, which the authors'
    program for arXiv 1806.09055 used (later versions draw the logarithm of the ratio).
    """
    numbers = ((words >> np.uint64(11)) * 2.0**-53).tolist()  # 0 <= number < 1
    for at in range(0, 5 * TRIES, 5):
        share, aspect, swap, down, along = numbers[at : at + 5]
        area = width * height * (area_min + share * (1 - area_min))
        ratio = ASPECT[0] + aspect * (ASPECT[1] - ASPECT[0])
        w, h = (max(round(math.sqrt(one)), 1) for one in (area * ratio, area / ratio))
        if swap < 0.5:
            w, h = h, w
        if w <= width and h <= height:
            left, top = int(along * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def cut_random(
    data: bytes, words: np.ndarray, *, image_px: int, channels: int, area_min: float
) -> np.ndarray:
    """Returns a random crop of an encoded picture, resized: uint8[image_px, image_px, channels].

    words: uint64[WORDS].  Raises whatever Pillow does for what is no picture.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        box = random_box(words, *image.size, area_min)
        box = _draft(image, box, image_px, channels)
        # Pixels outside of the crop must not be mixed in, so it is cut out before it is resized.
        left, top = math.floor(box[0]), math.floor(box[1])
        piece = image.crop((left, top, math.ceil(box[2]), math.ceil(box[3])))
        inner = box[0] - left, box[1] - top, box[2] - left, box[3] - top
        square = _resized(piece, (image_px, image_px), inner, channels)
    return np.asarray(square).reshape(image_px, image_px, channels)


def cut_centre(data: bytes, *, image_px: int, channels: int) -> np.ndarray:
    """Returns the centre of an encoded picture: uint8[image_px, image_px, channels].

    The short side is resized to image_px * 256 / 224, the long one in proportion, and the square in
    the middle is taken, as the authors' program evaluates.  Raises whatever Pillow does.
    """
    short_px = image_px * SHORT[0] // SHORT[1]
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        short = min(image.size)
        width, height = (side * short_px // short for side in image.size)
        # Twice the pixels, so that what is scored is near to a picture that was decoded whole.
        whole = _draft(image, (0, 0, *image.size), 2 * short_px, channels)
        resized = _resized(image, (width, height), whole, channels)
    left, top = round((width - image_px) / 2), round((height - image_px) / 2)
    square = resized.crop((left, top, left + image_px, top + image_px))
    return np.asarray(square).reshape(image_px, image_px, channels)


def _draft(image, box, wanted_px, channels):
    """Lets a JPEG be decoded at 1/2, 1/4 or 1/8, where a box still has the pixels that are wanted;
    returns the box in the picture that comes.
    """
    fits = min(box[2] - box[0], box[3] - box[1]) // wanted_px
    scale = next((one for one in SCALES if one <= fits), 1)
    before = image.size
    image.draft(MODES[channels], (before[0] // scale, before[1] // scale))
    return tuple(
        min(edge * image.size[at % 2] / before[at % 2], image.size[at % 2])
        for at, edge in enumerate(box)
    )


def _resized(image, size, box, channels):
    return in_mode(image, MODES[channels]).resize(size, Image.Resampling.BILINEAR, box=box)


def check(data: bytes) -> None:
    """Decodes a whole picture; raises whatever Pillow does."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        in_mode(image, "RGB")
