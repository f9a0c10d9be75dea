"""Labelled pictures in memory, or on disk (`stored`), checked; one registry line a data set.

Order, the split into halves and augmentation belong elsewhere.
"""

import dataclasses
import io
import itertools
import math
import sys
import zipfile
import zlib
from importlib import resources
from typing import ClassVar

import numpy as np
from PIL import Image

from darts_dist import cluster
from darts_dist.data import cifar, folder, records, stored
from darts_dist.data.stored import Broken, StoredPictures
from darts_dist.errors import ConfigError, DataError
from darts_dist.trainconfig import PictureConfig

# arXiv 1806.09055, the authors' code: statistics of the CIFAR-10 training pictures, R G B, of 1.
CIFAR10_MEAN = (0.49139968, 0.48215827, 0.44653124)
CIFAR10_STD = (0.24703233, 0.24348505, 0.26158768)
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)
# Those that torchvision's networks, and the authors' code, take for ImageNet.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BLOCK = 2**20  # pixels that are measured at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures in memory.

    images: uint8[M, H, W, C], contiguous.  labels: int32[M] in 0..len(class_names)-1.
    mean, std: C numbers each, for pictures scaled to 0..1; none where a set has no published ones.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    words: ClassVar[int] = 0
    """Random words that the crop of a picture takes: it is cropped on the device."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a picture: (H, W, C)."""
        return self.images.shape[1:]

    def first(self, count: int) -> "Pictures":
        """Returns the first of them."""
        return dataclasses.replace(self, images=self.images[:count], labels=self.labels[:count])

    def gather(
        self, part: np.ndarray, positions: np.ndarray, words: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns images uint8[..., H, W, C], labels int32[...] and own bool[...], all true here.

        part: numbers of pictures.  positions: int64[...] in it.  words: no use of them.
        """
        del words
        indices = part[positions]
        return self.images[indices], self.labels[indices], np.ones(positions.shape, bool)

    def checksums(self) -> dict[str, str]:
        """Returns checksums of all there is."""
        arrays = self.images, self.labels
        sums = [zlib.crc32(np.ascontiguousarray(array).data) for array in arrays]
        return {
            "the crc32 of the pictures": f"{sums[0]:08x}",
            "the crc32 of the labels": f"{sums[1]:08x}",
        }


AnyPictures = Pictures | StoredPictures


def load(config: PictureConfig, split: str) -> AnyPictures:
    """Returns the pictures of the data set that a config names, of one split, "train" or "test".

    data.path: for CIFAR the official folder, its parent, the official archive, or a folder that
    holds the archive; for image_folder and imagenet as `folder` says; for imagenet and array_record
    a folder that `records` wrote; "sample" ships with the package and needs none.
    Raises ConfigError for an unknown kind, DataError for what is on disk.
    """
    kind = config.data.kind
    if kind not in SOURCES:
        raise ConfigError(f'data.kind="{kind}" is unknown; known are {", ".join(sorted(SOURCES))}')
    return SOURCES[kind](config, split)


def fit(config: PictureConfig, pictures: AnyPictures) -> AnyPictures:
    """Returns training pictures as a config takes them: as many as it asks for, with mean and std.

    Raises ConfigError where config and pictures do not fit each other.
    """
    data = config.data
    if data.train_limit:
        if data.train_limit > len(pictures.labels):
            raise ConfigError(
                f"data.train_limit={data.train_limit} is more than the {len(pictures.labels)} "
                f"pictures there are"
            )
        pictures = pictures.first(data.train_limit)
    check_sizes(config, pictures)
    mean, std = data.mean or pictures.mean, data.std or pictures.std
    if not (mean and std) and isinstance(pictures, Pictures):
        measured = measure(pictures.images)
        mean, std = mean or measured[0], std or measured[1]
    return dataclasses.replace(pictures, mean=mean, std=std)


def check_sizes(config: PictureConfig, pictures: AnyPictures) -> None:
    """Raises ConfigError where pictures have not the size, channels or classes of the network."""
    data, network = config.data, config.network
    height, width, channels = pictures.shape
    for key, wanted, found in (
        ("network.image_px", network.image_px, height),
        ("network.image_px", network.image_px, width),
        ("network.in_channels", network.in_channels, channels),
    ):
        if wanted != found:
            raise ConfigError(
                f"{key}={wanted}, and the pictures of data.kind={data.kind} are "
                f"{width}x{height} pixels of {channels} "
                f"channels; set it to {found}"
            )
    classes = len(pictures.class_names)
    if network.classes not in (0, classes):
        raise ConfigError(
            f"network.classes={network.classes}, and the pictures of data.kind={data.kind} have "
            f"{classes} classes; use {classes} or 0"
        )


def identity(pictures: AnyPictures) -> dict[str, str]:
    """Returns texts, by name, that are the same for the same pictures and for no others; of
    pictures on disk that is their list and their sizes, for to read them all takes hours.
    """
    return {
        "the number of pictures": str(len(pictures.labels)),
        "the size of a picture": str(pictures.shape),
        "the class names": ", ".join(pictures.class_names),
        "the mean": repr(pictures.mean),
        "the deviation": repr(pictures.std),
        **pictures.checksums(),
    }


def measure(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation of each channel of uint8[M, H, W, C], for values scaled to 0..1.

    Levels are counted and summed as whole numbers, so every process finds the same digits. The
    deviation of a channel that never changes is given as 1.
    """
    channels = images.shape[-1]
    pixels = images.reshape(-1, channels)
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(pixels), BLOCK):
        for channel, levels in enumerate(pixels[start : start + BLOCK].T):
            counts[channel] += np.bincount(levels, minlength=256)
    mean, std = [], []
    for count in counts.tolist():
        total = sum(level * n for level, n in enumerate(count))
        squares = sum(level**2 * n for level, n in enumerate(count))
        mean.append(total / (255 * len(pixels)))
        std.append(math.sqrt(len(pixels) * squares - total**2) / (255 * len(pixels)) or 1.0)
    return tuple(mean), tuple(std)


def load_cifar10(config, split):
    """Returns the Pictures of CIFAR-10: 50,000 for training, 10,000 for testing, 10 classes."""
    return Pictures(*cifar.read("cifar10", config.data.path, split), CIFAR10_MEAN, CIFAR10_STD)


def load_cifar100(config, split):
    """Returns the Pictures of CIFAR-100 with its 100 fine labels."""
    return Pictures(*cifar.read("cifar100", config.data.path, split), CIFAR100_MEAN, CIFAR100_STD)


def load_folder(config, split):
    """Returns the Pictures in a user's folders, as large and in as many channels as the network's.

    They have no mean and std of their own.
    """
    images, labels, names = folder.read(
        config.data.path,
        split,
        image_px=config.network.image_px,
        channels=config.network.in_channels,
        limit=config.data.train_limit if split == "train" else 0,
        skip_broken=config.data.broken == "skip",
        say=_say,
    )
    return Pictures(images, labels, names, (), ())


def load_stored(config, split):
    """Returns the StoredPictures of a folder of pictures, or of ArrayRecord files, which stay there
    and are cut to the network's size as they are read.

    Colour pictures have the mean and std that networks for ImageNet are given.
    """
    data, network = config.data, config.network
    if not data.path:
        raise DataError(
            f"data.path is empty; data.kind={data.kind} wants a folder with {folder.LAYOUT}, or "
            "one that `prepare_data.py arrayrecord` wrote"
        )
    packed = data.kind == "array_record" or records.is_packed(data.path)
    store, labels, names = (records if packed else stored).open_folder(data.path, split)
    colour = network.in_channels == 3
    return StoredPictures(
        store=store,
        labels=labels,
        class_names=names,
        mean=IMAGENET_MEAN if colour else (),
        std=IMAGENET_STD if colour else (),
        shape=(network.image_px, network.image_px, network.in_channels),
        area_min=data.crop_area_min,
        broken=Broken(skip=data.broken == "skip", say=_say_here),
    )


def _say_here(text):  # a picture may be read by one process alone
    print(text, file=sys.stderr, flush=True)


def _say(text):
    if cluster.is_main():
        print(text, file=sys.stderr, flush=True)


def load_sample(config, split):
    """Returns the Pictures that ship with the package: 4,000 and 1,000 of CIFAR-10, as JPEG.

    config: not used.  Raises DataError when the packaged file is missing or damaged.
    """
    del config
    what = "the packaged sample darts_dist/data/samples/cifar10.npz"
    try:
        file = resources.files("darts_dist.data").joinpath("samples/cifar10.npz")
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as packed:
            jpeg, offsets = packed[f"{split}_jpeg"].tobytes(), packed[f"{split}_offsets"]
            labels, names = packed[f"{split}_labels"], packed["classes"]
        images = np.empty((len(labels), 32, 32, 3), np.uint8)
        for index, (start, end) in enumerate(itertools.pairwise(offsets)):
            images[index] = np.asarray(Image.open(io.BytesIO(jpeg[start:end])).convert("RGB"))
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{what} is damaged: {error}; install the package again") from error
    names = tuple(str(name) for name in names)
    return Pictures(images, labels.astype(np.int32), names, CIFAR10_MEAN, CIFAR10_STD)


SOURCES = {
    "array_record": load_stored,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "image_folder": load_folder,
    "imagenet": load_stored,
    "sample": load_sample,
}
