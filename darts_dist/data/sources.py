"""Reads labelled pictures from disk into memory, checked; one registry line a data set.

Order, the split into halves and augmentation belong elsewhere.
"""

import dataclasses
import io
import itertools
import zipfile
import zlib
from importlib import resources

import numpy as np
from PIL import Image

from darts_dist.config import Config
from darts_dist.data import cifar
from darts_dist.errors import ConfigError, DataError

# arXiv 1806.09055, the authors' code: statistics of the CIFAR-10 training pictures, R G B, of 1.
CIFAR10_MEAN = (0.49139968, 0.48215827, 0.44653124)
CIFAR10_STD = (0.24703233, 0.24348505, 0.26158768)
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures in memory.

    images: uint8[M, H, W, C], contiguous.  labels: int32[M] in 0..len(class_names)-1.
    mean, std: C numbers each, for pictures scaled to 0..1.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(kind, path, split):
    """Returns the Pictures of one data set and split, "train" or "test".

    kind: a key of SOURCES.  path: str or Path; for CIFAR the official folder, its parent, the
    official archive, or a folder that holds the archive; "sample" ships with the package and needs
    none.  Raises ConfigError for an unknown kind, DataError for what is on disk.
    """
    if kind not in SOURCES:
        raise ConfigError(f'data.kind="{kind}" is unknown; known are {", ".join(sorted(SOURCES))}')
    return SOURCES[kind](path, split)


def load_training(config: Config) -> Pictures:
    """Returns the training pictures that a config asks for;
    ConfigError or DataError where they do not fit it.
    """
    data, network = config.data, config.network
    pictures = load(data.kind, data.path, "train")
    if data.train_limit:
        if data.train_limit > len(pictures.labels):
            raise ConfigError(
                f"data.train_limit={data.train_limit} is more than the {len(pictures.labels)} "
                f"pictures there are"
            )
        limit = data.train_limit
        pictures = dataclasses.replace(
            pictures, images=pictures.images[:limit], labels=pictures.labels[:limit]
        )
    _, height, width, channels = pictures.images.shape
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
    largest = int(pictures.labels.max())
    if network.classes and largest >= network.classes:
        raise DataError(
            f"network.classes={network.classes}, and the labels go up to {largest}; use "
            f"{largest + 1} or 0"
        )
    return dataclasses.replace(
        pictures, mean=data.mean or pictures.mean, std=data.std or pictures.std
    )


def load_cifar10(path, split):
    """Returns the Pictures of CIFAR-10: 50,000 for training, 10,000 for testing, 10 classes."""
    return Pictures(*cifar.read("cifar10", path, split), CIFAR10_MEAN, CIFAR10_STD)


def load_cifar100(path, split):
    """Returns the Pictures of CIFAR-100 with its 100 fine labels."""
    return Pictures(*cifar.read("cifar100", path, split), CIFAR100_MEAN, CIFAR100_STD)


def load_sample(path, split):
    """Returns the Pictures that ship with the package: 4,000 and 1,000 of CIFAR-10, as JPEG.

    path: not used.  Raises DataError when the packaged file is missing or damaged.
    """
    del path
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


SOURCES = {"cifar10": load_cifar10, "cifar100": load_cifar100, "sample": load_sample}
