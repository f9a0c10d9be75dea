"""What is cut out of encoded pictures, against plain re-implementations."""

import io
import math

import numpy as np
import pytest
from photos import photo
from picture_folders import encoded
from PIL import Image

from darts_dist.data import crops

PX = 16


def draw(seed, count=crops.WORDS):
    return np.random.Philox(key=seed).random_raw(count)


def plain_box(words, width, height, area_min):
    """torchvision 0.2's RandomResizedCrop.get_params, with numbers given instead of drawn."""
    numbers = iter(float(int(word) >> 11) / 2**53 for word in words)
    for _ in range(10):
        area = width * height * (area_min + next(numbers) * (1 - area_min))
        ratio = 3 / 4 + next(numbers) * (4 / 3 - 3 / 4)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if next(numbers) < 0.5:
            w, h = h, w
        top, left = next(numbers), next(numbers)
        if w <= width and h <= height:
            i, j = math.floor(top * (height - h + 1)), math.floor(left * (width - w + 1))
            return j, i, j + w, i + h
    side = min(width, height)
    i, j = (height - side) // 2, (width - side) // 2
    return j, i, j + side, i + side


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (64, 64), (300, 20)])
def test_random_boxes_are_those_of_the_formula(size):
    for seed in range(200):
        found = crops.random_box(draw(seed), *size, 0.08)
        assert found == plain_box(draw(seed), *size, 0.08)
        left, top, right, bottom = found
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]


def test_random_boxes_have_the_shares_and_the_ratios_that_are_wanted():
    boxes = [crops.random_box(draw(seed), 1000, 1000, 0.08) for seed in range(3000)]
    widths, heights = (np.array([box[at + 2] - box[at] for box in boxes]) for at in (0, 1))
    shares = widths * heights / 1e6
    assert 0.08 - 1e-3 < shares.min() < 0.1 and 0.9 < shares.max() <= 1
    ratios = widths / heights
    assert 0.75 - 5e-3 < ratios.min() < 0.77 and 1.3 < ratios.max() < 1.34
    assert abs((ratios > 1).mean() - 0.5) < 0.05


def test_a_picture_in_which_no_size_fits_gives_its_largest_square_in_the_centre():
    assert crops.random_box(draw(0), 1000, 10, 0.5) == (495, 0, 505, 10)
    assert crops.random_box(draw(0), 10, 1001, 0.5) == (0, 495, 10, 505)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2)])
def test_the_smallest_pictures_have_crops(size):
    data = encoded(photo(0, size), "PNG")
    for seed in range(20):
        cut = crops.cut_random(data, draw(seed), image_px=PX, channels=3, area_min=0.08)
        assert cut.shape == (PX, PX, 3)
    assert crops.cut_centre(data, image_px=PX, channels=3).shape == (PX, PX, 3)


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_random_crop_is_the_picture_cut_and_resized(kind, channels, mode):
    data = encoded(photo(1, (31, 27)), kind)
    image = Image.open(io.BytesIO(data))
    if (kind, mode) == ("JPEG", "L"):
        image.draft("L", image.size)  # a JPEG holds the grey picture itself
    for seed in range(30):
        box = plain_box(draw(seed), *image.size, 0.3)
        cut = image.convert(mode).crop(box).resize((PX, PX), Image.Resampling.BILINEAR)
        found = crops.cut_random(data, draw(seed), image_px=PX, channels=channels, area_min=0.3)
        np.testing.assert_array_equal(found[..., 0] if channels == 1 else found, np.asarray(cut))


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same():
    whole = photo(2, (640, 480))
    data = encoded(whole, "JPEG", quality=95)
    for seed in range(10):
        box = plain_box(draw(seed), 640, 480, 0.2)
        cut = whole.crop(box).resize((PX, PX), Image.Resampling.BILINEAR)
        found = crops.cut_random(data, draw(seed), image_px=PX, channels=3, area_min=0.2)
        np.testing.assert_allclose(found, np.asarray(cut).astype(int), atol=8)


@pytest.mark.parametrize("size", [(50, 40), (40, 50), (39, 64), (33, 33)])
def test_the_centre_is_that_of_the_resized_picture(size):
    data = encoded(photo(3, size), "PNG")
    short = PX * 256 // 224
    scale = (
        (short, int(short * size[1] / size[0]))
        if size[0] < size[1]
        else (int(short * size[0] / size[1]), short)
    )
    resized = np.asarray(photo(3, size).resize(scale, Image.Resampling.BILINEAR))
    left, top = round((scale[0] - PX) / 2), round((scale[1] - PX) / 2)
    found = crops.cut_centre(data, image_px=PX, channels=3)
    np.testing.assert_array_equal(found, resized[top : top + PX, left : left + PX])


def test_at_224_pixels_the_short_side_is_256():
    data = encoded(photo(4, (512, 256)), "PNG")
    found = crops.cut_centre(data, image_px=224, channels=3)
    np.testing.assert_array_equal(found, np.asarray(photo(4, (512, 256)))[16:240, 144:368])


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_pictures_of_any_mode_become_colour_or_grey(mode):
    kind = "JPEG" if mode in ("L", "CMYK") else "PNG"
    data = encoded(photo(5).convert(mode), kind)
    for channels in (1, 3):
        cut = crops.cut_random(data, draw(1), image_px=PX, channels=channels, area_min=0.5)
        assert cut.shape == (PX, PX, channels) and cut.dtype == np.uint8
        assert crops.cut_centre(data, image_px=PX, channels=channels).shape == cut.shape


def test_a_cut_file_fails_the_check_and_a_whole_one_passes():
    data = encoded(photo(6), "JPEG")
    crops.check(data)
    with pytest.raises(OSError, match="truncated"):
        crops.check(data[:-40])
