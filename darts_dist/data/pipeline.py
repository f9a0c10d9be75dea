"""The order of the pictures: which examples make up each step's batches, on every process.

A step's global batches are a pure function of (seed, step): nothing of the pipeline is ever saved,
any number of processes sees the same ones, and starting at a step equals having come to it. Each
process reads its contiguous block of rows. Pictures stay uint8; augmentation is the device's work,
but for the crops of pictures that lie on disk, which are cut as they are decoded.

Letters: S seeds of this process, n rows of this process, H W pixels, C channels.
"""

import contextlib
import functools

import grain
import numpy as np

from darts_dist.errors import ConfigError

STREAMS = ("train", "valid")  # what trains weights, what trains alphas
ENDLESS = 2**62  # steps
PREFETCHED_STEPS = 4


def halves(count, train_fraction, split, global_batch=1):
    """Returns the indices of the weight half and of the alpha half, int64 each, disjoint.

    split: "index", the first floor(train_fraction * count) pictures for the weights, as the
    original does; or "shuffled", the same cut through one fixed permutation.  No search seed has a
    part in it.  Raises ConfigError when a half has fewer pictures than a global batch.
    """
    weight_count = int(train_fraction * count)
    smaller = min(weight_count, count - weight_count)
    if smaller < global_batch:
        raise ConfigError(
            f"data.global_batch={global_batch} is more than the {smaller} pictures of the smaller "
            f"half (data.train_fraction={train_fraction} of {count}); use more pictures, or a "
            "smaller batch"
        )
    if split == "index":
        indices = np.arange(count)
    elif split == "shuffled":
        indices = _shuffled(count, key=(0, len(STREAMS)))
    else:
        raise ConfigError(f'data.split="{split}" is unknown; known are index, shuffled')
    return indices[:weight_count], indices[weight_count:]


def permutation(stream, seed, epoch, count):
    """Returns the order of one pass over `count` examples: int64[count], each number once."""
    return _shuffled(count, key=(seed, epoch * 256 + STREAMS.index(stream)))


def order(stream, seed, step, count, global_batch, permutation=permutation):
    """Returns the examples of one global batch: int64[global_batch] in 0..count-1.

    stream: "train" or "valid".  It is a window on the endless line of passes, each a permutation
    of its own: batches cross from one pass to the next and every example comes once in each.
    permutation: how to get a pass, for a caller that keeps some.
    """
    at = step * global_batch
    end = at + global_batch
    pieces = []
    while at < end:
        epoch, first = divmod(at, count)
        piece = permutation(stream, seed, epoch, count)[first : first + end - at]
        pieces.append(piece)
        at += len(piece)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def batches(pictures, parts, *, seeds, rows, global_batch, start, threads):
    """Returns an iterator, without end, of this process's part of the batches of steps start, ...

    pictures: sources.Pictures, or stored.StoredPictures, whose random crops are a pure function of
    (seed, stream, step, place in the global batch), too.  parts: indices by stream: what trains
    weights under "train" and, in a search, what trains alphas under "valid".
    seeds: the S seed numbers that this process holds.  rows: slice of the global batch, n long.
    threads: that read ahead; 0 reads when asked.
    An item is {"image": uint8[S, n, H, W, C], "label": int32[S, n]} by stream.
    """
    return read_ahead(_Source(pictures, parts, seeds, rows, global_batch), start, threads)


def evaluation_batches(pictures, indices, *, rows, global_batch, threads=0):
    """Yields this process's part of one pass over pictures[indices], in order.

    rows: slice of the global batch, n long.  threads: that read ahead; 0 reads when asked.
    An item is {"image": uint8[n, H, W, C], "label": int32[n], "mask": bool[n]}.  Over all processes
    every example comes once with mask true; the last batch is filled up with the first examples
    again, mask false, so that all processes take equally many steps. An example on disk that is
    broken and left out has mask false.  Raises ConfigError when there is nothing to evaluate.
    """
    if not len(indices):
        raise ConfigError("no pictures to evaluate; wanted at least one")
    source = _Pass(pictures, np.asarray(indices), rows, global_batch)
    with contextlib.closing(read_ahead(source, 0, threads)) as iterator:
        yield from iterator


def read_ahead(source, start, threads):
    """Returns an iterator of source[start], source[start + 1], ... to its end; it has `close`.

    threads: that read ahead; 0 reads when asked.
    """
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=PREFETCHED_STEPS if threads else 0
    )
    return iter(grain.MapDataset.source(source)[start:].to_iter_dataset(options))


class _Pass:
    """Random access to whole local batches of one pass for evaluation."""

    def __init__(self, pictures, indices, rows, global_batch):
        self.pictures, self.indices = pictures, indices
        self.rows, self.global_batch = rows, global_batch

    def __len__(self):
        return -(-len(self.indices) // self.global_batch)

    def __getitem__(self, index):
        count, first = len(self.indices), index * self.global_batch
        places = np.arange(first, first + self.global_batch)[self.rows]
        images, labels, own = self.pictures.gather(self.indices, places % count)
        return {"image": images, "label": labels, "mask": own & (places < count)}


class _Source:
    """Random access to whole local batches: record k is step k's, for all streams and seeds.

    A record for each picture costs twenty times as much, nearly all of it bookkeeping.
    """

    def __init__(self, pictures, parts, seeds, rows, global_batch):
        self.pictures = pictures
        self.parts = {stream: np.asarray(part) for stream, part in parts.items()}
        self.seeds = tuple(seeds)
        self.rows = rows
        self.global_batch = global_batch
        # For each stream and seed this pass and the next: batches cross, threads run ahead.
        kept = 2 * len(parts) * len(self.seeds)
        self.permutation = functools.lru_cache(maxsize=kept)(permutation)

    def __len__(self):
        return ENDLESS

    def __getitem__(self, index):
        return {stream: self.batch(stream, part, index) for stream, part in self.parts.items()}

    def batch(self, stream, part, step):
        count, words, positions, drawn = len(part), self.pictures.words, [], None
        for seed in self.seeds:
            block = order(stream, seed, step, count, self.global_batch, self.permutation)
            positions.append(block[self.rows])
        if words:
            drawn = np.stack([draw_words(stream, s, step, self.rows, words) for s in self.seeds])
        images, labels, _ = self.pictures.gather(part, np.stack(positions), drawn)
        return {"image": images, "label": labels}


def draw_words(stream, seed, step, rows, count):
    """Returns random words for examples at these rows of a global batch: uint64[n, count].

    count: for each example, a multiple of 4.  They depend on (stream, seed, step, place) alone.
    """
    # 128: apart from the orders of the passes (`permutation`).
    key = (seed, step * 256 + 128 + STREAMS.index(stream))
    generator = np.random.Philox(key=np.array(key, np.uint64)).advance(rows.start * count // 4)
    return generator.random_raw((rows.stop - rows.start) * count).reshape(-1, count)


def _shuffled(count, key):
    """Returns a permutation of `count` that is the same on every platform and numpy version.

    numpy promises that for the raw words of Philox, not for what its generators make of them.
    """
    words = np.random.Philox(key=np.array(key, np.uint64)).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)
