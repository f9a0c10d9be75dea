"""Users' own pictures: which files are found, in which order, and what becomes of their pixels."""

import io
import os
import random
import struct
import unicodedata

import numpy as np
import pytest
from picture_folders import (
    GREEN,
    GREY,
    PX,
    RED,
    WHITE,
    draw,
    encoded,
    put,
    put_numbered,
    read,
    settings,
)
from PIL import Image

from darts_dist.data import folder, pipeline, sources
from darts_dist.errors import DataError


def colour_of(file, data, channels=3):
    """The one colour of the picture that comes out."""
    pixels = folder.decode(put(file, data), PX, channels).reshape(-1, channels)
    assert (pixels == pixels[0]).all()
    return tuple(pixels[0].tolist())


def loaded(config):
    return sources.fit(config, sources.load(config, "train"))


# What is found.


@pytest.mark.parametrize("under", ["", "train"])
def test_classes_are_the_sorted_folders_with_or_without_train(under, tmp_path):
    put_numbered(tmp_path / under, {"zebra": 2, "ant": 3})
    images, labels, names = read(tmp_path)
    assert names == ("ant", "zebra")
    assert (images.shape, images.dtype, labels.dtype) == ((5, PX, PX, 3), np.uint8, np.int32)
    assert images.flags.c_contiguous
    found = sorted(zip(labels.tolist(), images[:, 0, 0, 0].tolist(), strict=True))
    assert found == [(0, 50), (0, 51), (0, 52), (1, 0), (1, 1)]


def test_val_is_numbered_by_the_classes_of_train(tmp_path):
    put_numbered(tmp_path / "train", {"a": 1, "b": 1, "c": 1})
    put_numbered(tmp_path / "val", {"c": 2})
    images, labels, names = read(tmp_path, "test")
    assert (len(images), labels.tolist(), names) == (2, [2, 2], ("a", "b", "c"))
    put(tmp_path / "val" / "d" / "x.png")
    with pytest.raises(DataError, match=r"val: d not in .*train"):
        read(tmp_path, "test")


def test_training_needs_no_val_and_evaluating_does(tmp_path):
    put_numbered(tmp_path, {"a": 1, "b": 1})
    assert len(read(tmp_path)[0]) == 2
    with pytest.raises(DataError, match=r"wanted them as val/<class>/\*"):
        read(tmp_path, "test")


def test_a_class_may_be_called_train(tmp_path):
    put_numbered(tmp_path, {"bus": 1, "train": 2})
    assert read(tmp_path)[2] == ("bus", "train")


def test_hidden_entries_and_other_files_are_left_out(tmp_path):
    put_numbered(tmp_path, {"a": 1, "b": 1})
    for name in (".x.png", "notes.txt", "Thumbs.db", "png", "x.png.part", ".DS_Store"):
        put(tmp_path / "a" / name)
    put(tmp_path / "a" / "nested.png" / "x.png")
    put(tmp_path / ".cache" / "x.png")
    put(tmp_path / "README.md")
    assert len(read(tmp_path)[0]) == 2


def test_every_ending_counts_in_any_case(tmp_path):
    kinds = {".ppm": "PPM", ".pgm": "PPM", ".gif": "GIF", ".bmp": "BMP", ".webp": "WEBP"}
    kinds |= {".tif": "TIFF", ".tiff": "TIFF", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    assert sorted(kinds) == sorted(folder.ENDINGS)
    for ending, kind in kinds.items():
        put(tmp_path / "a" / f"low{ending}", encoded(draw(), kind))
        put(tmp_path / "b" / f"HIGH{ending.upper()}", encoded(draw(), kind))
    assert len(read(tmp_path)[0]) == 2 * len(kinds)


def test_names_in_any_script_or_in_none_are_read(tmp_path):
    names = ("žaba", "猫", "emoji 🐈", "line\nbreak", unicodedata.normalize("NFD", "é"))
    for name in names:
        put(tmp_path / name / f"{name}.png")
    with open(os.fsencode(tmp_path / "猫") + b"/\xff\xfe.png", "wb") as file:
        file.write(encoded(draw()))
    images, _, found = read(tmp_path)
    assert (len(images), sorted(found)) == (6, sorted(names))


def test_the_order_follows_from_the_names_alone(tmp_path, monkeypatch):
    put_numbered(tmp_path, {"b": 9, "a": 5, "c": 7})
    images, labels, _ = read(tmp_path)

    scandir = os.scandir

    class Shuffled:
        def __init__(self, place):
            with scandir(place) as entries:
                self.entries = list(entries)
            random.Random(3).shuffle(self.entries)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(folder.os, "scandir", Shuffled)
    again, labels_again, _ = read(tmp_path)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)


def test_accents_kept_together_or_apart_make_no_other_order(tmp_path):
    orders = []
    for form in ("NFC", "NFD"):
        for number, name in enumerate(("e", "é", "f", "ö", "o")):
            name = unicodedata.normalize(form, name)
            for at in range(3):
                level = (10 * number + at,) * 3
                put(tmp_path / form / name / f"{name}{at}.png", encoded(draw(level)))
        orders.append(read(tmp_path / form)[0])
    np.testing.assert_array_equal(*orders)


def test_every_first_part_has_its_share_of_each_class(tmp_path):
    counts = {"few": 6, "many": 24, "some": 12}
    put_numbered(tmp_path, counts)
    images, labels, _ = read(tmp_path)
    for end in range(1, 43):
        shares = np.bincount(labels[:end], minlength=3)
        assert (abs(shares - end * np.array([6, 24, 12]) / 42) <= 1).all()
    weights, alphas = pipeline.halves(42, 0.5, "index")
    assert np.bincount(labels[weights]).tolist() == np.bincount(labels[alphas]).tolist()
    many = images[labels == 1, 0, 0, 0]
    assert sorted(many) != many.tolist()  # names that tell the time do not part the halves


def test_a_limit_reads_the_first_pictures_and_no_other(tmp_path):
    put_numbered(tmp_path, {"a": 10, "b": 10})
    images, labels, _ = read(tmp_path)
    some, their_labels, _ = read(tmp_path, limit=6)
    np.testing.assert_array_equal(some, images[:6])
    np.testing.assert_array_equal(their_labels, labels[:6])
    assert len(read(tmp_path, limit=100)[0]) == 20


def test_links_are_followed_and_one_to_nothing_is_named(tmp_path):
    put_numbered(tmp_path / "store", {"x": 2, "y": 1})
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").symlink_to(tmp_path / "store" / "x")
    put(data / "b" / "own.png")
    (data / "b" / "link.png").symlink_to(tmp_path / "store" / "y" / "000.png")
    assert len(read(data)[0]) == 4
    (data / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"1 of 5 files .*b/gone\.png \(No such file"):
        read(data)
    (data / "b" / "gone.png").unlink()
    (data / "c").symlink_to(tmp_path / "unmounted")
    with pytest.raises(DataError, match=r"data/c cannot be read: No such file"):
        read(data)


# What becomes of it.


def tiff_16():
    return Image.fromarray(np.full((4, 4), 0x5AFF, np.uint16))


KINDS = {
    "colour": (encoded(draw(RED)), RED),
    "cmyk jpeg": (encoded(draw((0, 255, 255, 0), mode="CMYK"), "JPEG", quality=100), RED),
    "cmyk tiff": (encoded(draw((0, 255, 255, 0), mode="CMYK"), "TIFF"), RED),
    "palette": (encoded(draw(RED).convert("P")), RED),
    "palette gif": (encoded(draw(RED).quantize(4), "GIF"), RED),
    "opaque": (encoded(draw((*RED, 255), mode="RGBA")), RED),
    "transparent": (encoded(draw((*RED, 0), mode="RGBA")), WHITE),
    "transparent webp": (encoded(draw((*RED, 0), mode="RGBA"), "WEBP", lossless=True), WHITE),
    "half transparent": (encoded(draw((0, 0, 0, 51), mode="RGBA")), (204, 204, 204)),
    "grey transparent": (encoded(draw((90, 0), mode="LA")), WHITE),
    "grey opaque": (encoded(draw((90, 255), mode="LA")), GREY),
    "palette, one transparent": (encoded(draw(0, mode="P"), transparency=0), WHITE),
    "palette, all transparent": (
        encoded(draw(RED).convert("P"), transparency=bytes([0] * 256)),
        WHITE,
    ),
    "colour key": (encoded(draw(RED), transparency=RED), WHITE),
    "grey": (encoded(draw(90, mode="L")), GREY),
    "black and white": (encoded(draw(1, mode="1")), WHITE),
    "16 bits": (encoded(tiff_16()), GREY),
    "16 bits tiff": (encoded(tiff_16(), "TIFF"), GREY),
    "16 bits pgm": (encoded(tiff_16(), "PPM"), GREY),
    "1x1": (encoded(draw(RED, (1, 1))), RED),
    "1x1 gif": (encoded(draw(RED, (1, 1)), "GIF"), RED),
    "1x3000": (encoded(draw(RED, (1, 3000))), RED),
    "3000x2": (encoded(draw(RED, (3000, 2))), RED),
    "first frame": (encoded(draw(RED), "GIF", save_all=True, append_images=[draw(GREEN)]), RED),
    "first page": (encoded(draw(RED), "TIFF", save_all=True, append_images=[draw(GREEN)]), RED),
}


@pytest.mark.parametrize("name", KINDS)
def test_any_kind_of_pixels_becomes_colour_and_grey(name, tmp_path):
    data, colour = KINDS[name]
    found = colour_of(tmp_path / "x", data)
    assert np.abs(np.subtract(found, colour)).max() <= 1  # JPEG rounds
    (grey,) = colour_of(tmp_path / "x", data, channels=1)
    assert abs(grey - np.dot(colour, (0.299, 0.587, 0.114))) <= 2


def test_the_centre_is_kept(tmp_path):
    wide = draw(RED, (300, 100))
    wide.paste(GREEN, (100, 0, 200, 100))
    for image in (wide, wide.transpose(Image.Transpose.ROTATE_90)):
        pixels = folder.decode(put(tmp_path / "x", encoded(image)), PX, 3).astype(int)
        assert np.abs(pixels - GREEN).max() <= 20  # the filter reaches over the edge


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_whatever_the_camera_held(kind, orientation, tmp_path):
    upright = draw((0, 0, 0), (24, 16))
    upright.paste((200, 200, 200), (12, 0, 24, 8))  # the corner at the upper right
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    tags = Image.Exif()
    tags[0x0112] = orientation
    file = put(tmp_path / "x", encoded(stored, kind, exif=tags))
    pixels = folder.decode(file, PX, 1)[..., 0]
    assert pixels[1, 6] > 150
    assert max(pixels[1, 1], pixels[6, 1], pixels[6, 6]) < 50


def test_a_damaged_note_of_the_camera_does_not_cost_the_picture(tmp_path):
    data = bytearray(encoded(draw(RED), "JPEG", exif=b"Exif\0\0" + b"MM\0*" + bytes(60)))
    at = data.index(b"MM\0*") + 4
    for number, damage in enumerate((struct.pack(">I", 2**32 - 1), b"\xff" * 40)):
        data[at : at + len(damage)] = damage
        put(tmp_path / str(number) / "x.jpg", bytes(data))
    assert len(read(tmp_path)[0]) == 2


def test_large_photographs_are_shrunk_as_by_a_plain_resize(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    photograph = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
    data = encoded(photograph, "JPEG", quality=95)
    found = folder.decode(put(tmp_path / "x", data), PX, 3).astype(int)
    plain = Image.open(io.BytesIO(data)).crop((80, 0, 560, 480))
    wanted = np.asarray(plain.resize((PX, PX), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(found - wanted).mean() < 3


def test_grey_and_coloured_pictures_mix(tmp_path):
    put(tmp_path / "a" / "1.png", encoded(draw(90, mode="L")))
    put(tmp_path / "b" / "1.png", encoded(draw(RED)))
    images, labels, _ = read(tmp_path)
    assert images[:, 0, 0].tolist() == [list((GREY, RED)[label]) for label in labels]
    assert read(tmp_path, channels=1)[0].shape == (2, PX, PX, 1)


def test_statistics_are_those_of_the_training_pictures_or_as_given(tmp_path):
    put_numbered(tmp_path / "train", {"a": 4, "b": 5})
    pictures = loaded(settings(tmp_path))
    images = pictures.images / 255
    np.testing.assert_allclose(pictures.mean, images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(pictures.std, images.std((0, 1, 2)), rtol=1e-12)
    some = loaded(settings(tmp_path, "data.train_limit=4"))
    np.testing.assert_allclose(some.mean, images[:4].mean((0, 1, 2)), rtol=1e-12)
    given = loaded(settings(tmp_path, "data.mean=[0.5, 0.5, 0.5]"))
    assert (given.mean, given.std) == ((0.5, 0.5, 0.5), pictures.std)
