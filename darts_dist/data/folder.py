"""Reads folders of pictures, one folder a class: finds them, decodes them, makes them one size.

Files are decoded once, by threads, into one array, and those that cannot be read are told together.
What the pictures mean (statistics, splits) is the business of `sources`.
"""

import hashlib
import math
import os
import pathlib
import re
import time
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from darts_dist.errors import DataError

LAYOUT = "train/<class>/* with val/<class>/*, or <class>/*"
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")  # no other decoder sees a file
SPLITS = {"train", "val", "test"}
MODES = {1: "L", 3: "RGB"}  # by channels
BLOCK = 256  # pictures decoded ahead of the one that is stored
SAY_EVERY_S = 10
NAMED = 5  # files that an error or a warning lists
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read(path, split, *, image_px, channels, limit, skip_broken, say):
    """Returns images uint8[M, image_px, image_px, channels], labels int32[M], names of the classes.

    path: str or Path of a folder as in LAYOUT; links are followed, hidden entries and other endings
    than ENDINGS left out. Classes are numbered by the sorted names of the training folders.
    split: "train" or "test", which is val/.  channels: 1 (grey) or 3.  limit: pictures that are
    read, the first of them; 0: all.  skip_broken: leave out what cannot be read and warn.
    say: gets lines for people.

    Every first part of the pictures has its share of each class: halves by position and limits ask
    for it. The order follows from the names alone.
    Raises DataError, for broken files after all have been tried.
    """
    root, names, files, labels = find(path, split)
    wanted = min(limit or len(files), len(files))
    _check_memory(root, (wanted, image_px, image_px, channels))
    images = np.empty((wanted, image_px, image_px, channels), np.uint8)
    kept, broken = [], {}

    def progress():
        say(f"read {len(kept)} of {wanted} pictures")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's name no file
        for at, picture in enumerate(_decode_all(files, image_px, channels, progress)):
            if isinstance(picture, str):
                broken[at] = f"{os.path.relpath(files[at], root)} ({picture})"
                continue
            images[len(kept)] = picture
            kept.append(at)
            if len(kept) == wanted:
                break
    if broken:
        tried, listed = len(kept) + len(broken), _shortened(sorted(broken.values()))
        found = f"{root}: {len(broken)} of {tried} files are broken: {listed}"
        if not skip_broken:
            raise DataError(f"{found}; mend or remove them, or leave them out: data.broken=skip")
        lost = {names[labels[at]] for at in broken} - {names[labels[at]] for at in kept}
        if lost:
            raise DataError(f"{found}; no picture is left of {_shortened(sorted(lost))}")
        say(f"warning: {found}; they are left out")
    return images[: len(kept)], labels[kept], names


# What there is.


def find(path, split):
    """Returns the data's folder, names of the classes, files and their labels int32[M].

    path, split and the order are those of `read`.  Raises DataError.
    """
    root, names, folders = _find_folders(path, split)
    return root, names, *_list_files(root, folders)


def splits(path):
    """Returns which of "train" and "test" a folder has."""
    _, inside, bare = _lay_out(path)
    return ("train",) if bare or "val" not in inside else ("train", "test")


def _find_folders(path, split):
    """Returns the data's folder, the names of the classes and (label, folder) of a split's."""
    root, inside, bare = _lay_out(path)
    train = root if bare else root / "train"
    names = _folders(train)
    if len(names) < 2:
        found = f"only one class, {names[0]}," if names else "no folder of a class"
        raise DataError(f"{train}: {found} to learn from; wanted at least two, as {LAYOUT}")
    if split == "train":
        return root, tuple(names), [(at, train / name) for at, name in enumerate(names)]
    if bare or "val" not in inside:
        raise DataError(
            f"{root}: no pictures to evaluate on; wanted them as val/<class>/*, or a share of the "
            "training pictures: data.train_fraction=0.9"
        )
    held = _folders(root / "val")
    unknown = [name for name in held if name not in names]
    if unknown:
        raise DataError(f"{root / 'val'}: {_shortened(unknown)} not in {train}; wanted its classes")
    return root, tuple(names), [(names.index(name), root / "val" / name) for name in held]


def _lay_out(path):
    """Returns the data's folder, the folders in it, and whether these are classes."""
    if not str(path):
        raise DataError(f"data.path is empty; data.kind=image_folder wants a folder with {LAYOUT}")
    root = pathlib.Path(os.path.expanduser(path))  # an unknown ~user stays
    inside = _folders(root)
    # A class may be called train, too: then there are pictures in it, and other classes beside it.
    bare = "train" not in inside or bool(set(inside) - SPLITS and not _folders(root / "train"))
    return root, inside, bare


def _list_files(root, folders):
    """Returns the files' paths and their labels int32[M], in the order that `read` tells of.

    Within a class they are sorted by a hash of their names: names often say when or where a picture
    was taken, and that must not part the halves.
    """
    files, labels, places, empty = [], [], [], []
    for label, folder in folders:
        names = sorted(_scan(folder, _is_picture), key=_hash)
        files += [os.path.join(folder, name) for name in names]
        labels += [label] * len(names)
        places += [(rank + 0.5) / len(names) for rank in range(len(names))]
        if not names:
            empty.append(os.path.relpath(folder, root))
    if empty:
        raise DataError(
            f"{root}: no picture in {_shortened(empty)}; looked for *{' *'.join(ENDINGS)} in each "
            f"folder of a class ({LAYOUT}); remove the folder, or fill it"
        )
    order = np.argsort(np.array(places), kind="stable")
    return [files[at] for at in order], np.array(labels, np.int32)[order]


def _folders(folder):
    # A link to nothing is kept, so that a class does not vanish with a disk that is not there.
    def wanted(entry):
        return entry.is_dir() or (entry.is_symlink() and not os.path.exists(entry.path))

    return sorted(_scan(folder, wanted), key=lambda name: (_composed(name), name))


def _is_picture(entry):
    # Links are opened as they are, so that one to nothing is named.
    return entry.name.lower().endswith(ENDINGS) and (entry.is_symlink() or entry.is_file())


def _scan(folder, wanted):
    try:
        with os.scandir(folder) as entries:
            return [one.name for one in entries if one.name[0] != "." and wanted(one)]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{folder} cannot be read: {reason}; wanted a folder: {LAYOUT}") from error


def _composed(name):
    """Returns a name as most file systems keep it; some take accents apart."""
    return unicodedata.normalize("NFC", name)


def _hash(name):
    return hashlib.sha256(_composed(name).encode("utf-8", "surrogateescape")).digest(), name


def _shortened(names):
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


# What they hold.


def _decode_all(files, image_px, channels, progress):
    """Yields each file's picture, or in words why there is none; calls `progress` now and then."""
    said = time.monotonic()
    with ThreadPoolExecutor() as pool:  # Pillow lets other threads run while it decodes
        for start in range(0, len(files), BLOCK):
            block = files[start : start + BLOCK]
            yield from pool.map(lambda file: _try_to_decode(file, image_px, channels), block)
            if time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                progress()


def _try_to_decode(file, image_px, channels):
    try:
        return decode(file, image_px, channels)
    except Exception as error:  # a decoder may raise any class for a damaged file
        return why(error)


def why(error):
    """Returns in words why a file could not be read."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def decode(file, image_px, channels):
    """Returns the first picture in a file, upright: uint8[image_px, image_px, channels].

    The largest square around its centre is resized (bicubic, also up). What is transparent becomes
    white; of 16 bits the high 8 are kept. Raises whatever Pillow or the system does.
    """
    with Image.open(file, formats=FORMATS) as image:
        # JPEG can decode at 1/2, 1/4 or 1/8 of the size, still twice what is wanted: 3 to 10 times
        # as fast for photographs.
        image.draft(None, (2 * image_px, 2 * image_px))
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation.value)
        flat = in_mode(image, MODES[channels])
        square = ImageOps.fit(flat, (image_px, image_px), Image.Resampling.BICUBIC)
    if orientation in TURNS:
        square = square.transpose(TURNS[orientation])
    return np.asarray(square).reshape(image_px, image_px, channels)


def in_mode(image, mode):
    """Returns a picture as "L" or "RGB", whatever it was: palette, CMYK, transparent, 16 bits."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("32 bits a channel, wanted 8 or 16")
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)


# Whether they fit.


def _check_memory(root, shape):
    needed, free = math.prod(shape), free_memory("/")
    if free is not None and needed > free:
        size = "x".join(map(str, shape[1:]))
        raise DataError(
            f"{root}: {shape[0]} pictures of {size} take {needed / 2**30:.1f} GiB of memory, and "
            f"{free / 2**30:.1f} GiB are free; use fewer (data.train_limit) or smaller ones "
            f"(network.image_px)"
        )


def free_memory(system):
    """Returns the bytes that this process may still take, None where Linux does not tell.

    system: "/".  The least of what the machine has and what the process's control groups (version
    2: containers, batch systems) leave to it. Cached files count as free: they can be dropped.
    """
    system = pathlib.Path(system)
    try:
        machine = re.search(r"MemAvailable: +(\d+) kB", (system / "proc/meminfo").read_text())
        own = re.search(r"^0::/(.*)$", (system / "proc/self/cgroup").read_text(), re.MULTILINE)
    except OSError:
        return None
    if not machine:
        return None
    free, group = int(machine[1]) * 1024, system / "sys/fs/cgroup" / (own[1] if own else "")
    for folder in (group, *group.parents):
        try:
            limit = (folder / "memory.max").read_text().strip()
            used = int((folder / "memory.current").read_text())
            cached = re.search(r"^inactive_file (\d+)", (folder / "memory.stat").read_text(), re.M)
        except OSError:  # a group without limits
            continue
        if limit != "max" and cached:
            free = min(free, int(limit) - used + int(cached[1]))
    return max(free, 0)
