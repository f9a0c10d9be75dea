"""A training of networks that compile in seconds, and pictures for it."""

import numpy as np

from darts_dist import trainconfig
from darts_dist.config import parse_as
from darts_dist.data.sources import Pictures
from darts_dist.genotype import CnnGenotype
from darts_dist.training import Training

PX, CLASSES, ROWS = 8, 6, 8
GENOTYPE = CnnGenotype(
    normal=(("sep_conv_3x3", 0), ("skip_connect", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("dil_conv_3x3", 1)),
    reduce_concat=(2,),
)
SIZES = (
    "network.channels=2",
    "network.layers=3",
    f"network.image_px={PX}",
    f"data.global_batch={ROWS}",
    "data.crop_padding_px=1",
    "data.cutout_px=2",
    "precision.compute=float64",
    "weights.clip_norm=0.5",
    "schedule.epochs=4",
    "regularisation.drop_path=0.5",
    "regularisation.label_smoothing=0.1",
)


def config_of(*changes):
    """Returns the config of a small training; changes: texts `key.path=VALUE`."""
    return parse_as(trainconfig.TrainConfig, "", "a test", "small", (*SIZES, *changes))


def pictures(count=40, seed=0):
    """Returns random pictures of all classes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, PX, PX, 3), np.uint8)
    names = tuple(f"class {at}" for at in range(CLASSES))
    labels = (np.arange(count) % CLASSES).astype(np.int32)
    return Pictures(images, labels, names, (0.5,) * 3, (0.3,) * 3)


def training(*changes, scored=11):
    """Returns a small training that scores on so many other pictures."""
    return Training(config_of(*changes), GENOTYPE, pictures(), pictures(scored, seed=1))


def run(task, steps, epoch=2):
    """Returns (states, every step's metrics) after so many steps at the rates of one epoch."""
    states, seen, batches = task.init(), [], task.batches()
    for _ in range(steps):
        states, metrics = task.advance(states, next(batches), epoch)
        seen.append({name: np.array(value) for name, value in metrics.items()})
    batches.close()
    return states, seen
