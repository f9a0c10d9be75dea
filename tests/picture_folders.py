"""Folders of small pictures, made on the spot, and what is read from them."""

import io

from PIL import Image

from darts_dist import config
from darts_dist.data import folder

PX = 8
RED, GREEN, WHITE, GREY = (255, 0, 0), (0, 255, 0), (255, 255, 255), (90, 90, 90)


def draw(colour=GREY, size=(PX, PX), mode="RGB"):
    return Image.new(mode, size, colour)


def encoded(image, kind="PNG", **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def put(file, data=None):
    """Writes bytes, or a small picture, into a file and makes the folders that it needs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded(draw()) if data is None else data)
    return file


def put_numbered(root, counts):
    """Puts so many pictures into each class; their level says which class and which one it is."""
    for at, (name, count) in enumerate(counts.items()):
        for number in range(count):
            level = 50 * at + number
            put(root / name / f"{number:03}.png", encoded(draw((level,) * 3)))


def read(path, split="train", *, channels=3, limit=0, skip_broken=False, said=None):
    return folder.read(
        path,
        split,
        image_px=PX,
        channels=channels,
        limit=limit,
        skip_broken=skip_broken,
        say=(said if said is not None else []).append,
    )


def settings(path, *changes):
    given = ("data.kind=image_folder", f"data.path={path}", f"network.image_px={PX}")
    return config.parse("", "a test", overrides=(*given, "data.global_batch=2", *changes))
