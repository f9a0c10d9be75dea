import itertools

import numpy as np
import pytest

from darts_dist.data import pipeline
from darts_dist.data.sources import Pictures
from darts_dist.errors import ConfigError

COUNT = 101
BATCH = 12
WEIGHTS = [5, 4, 6, 3, 7, 1]
ALPHAS = [6, 7, 1, 2, 3, 0]
SHUFFLED = [6, 7, 2, 9, 1]


def numbered_pictures(count=COUNT):
    """Pictures whose first two pixels and label say which one it is."""
    images = np.zeros((count, 2, 3, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(count), 256)
    return Pictures(images, np.arange(count, dtype=np.int32), ("a",), (0.5,), (0.25,))


def numbers(images):
    return images[..., 0, 0, 0].astype(int) * 256 + images[..., 0, 1, 0]


def block(process, processes):
    n = BATCH // processes
    return slice(process * n, (process + 1) * n)


def batches(
    steps, *, start=0, seeds=(3, 4), rows=slice(0, BATCH), threads=0, split="index", count=COUNT
):
    halves = dict(zip(pipeline.STREAMS, pipeline.halves(count, 0.5, split), strict=True))
    iterator = pipeline.batches(
        numbered_pictures(count),
        halves,
        seeds=seeds,
        rows=rows,
        global_batch=BATCH,
        start=start,
        threads=threads,
    )
    read = list(itertools.islice(iterator, steps))
    iterator.close()
    return read


def labels(read, part):
    return np.stack([batch[part]["label"] for batch in read])  # steps, seeds, rows


def test_an_item_holds_pictures_and_labels_for_both_halves_and_every_seed():
    (batch,) = batches(1)
    assert sorted(batch) == ["train", "valid"]
    for part in batch.values():
        assert part["image"].shape == (2, BATCH, 2, 3, 1)
        assert part["image"].dtype == np.uint8
        assert part["label"].shape == (2, BATCH)
        assert part["label"].dtype == np.int32
        np.testing.assert_array_equal(numbers(part["image"]), part["label"])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_blocks_of_the_processes_are_the_global_batch_in_order(processes):
    whole = batches(12)
    parts = [batches(12, rows=block(p, processes), threads=p % 2) for p in range(processes)]
    for part in ("train", "valid"):
        joined = np.concatenate([labels(read, part) for read in parts], axis=2)
        np.testing.assert_array_equal(joined, labels(whole, part))


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("start", [1, 4, 9, 1000])
def test_starting_at_a_step_equals_having_come_to_it(start, threads):
    straight = batches(start + 5)[start:]
    for part in ("train", "valid"):
        started = labels(batches(5, start=start, threads=threads), part)
        np.testing.assert_array_equal(started, labels(straight, part))


@pytest.mark.parametrize("part", ["train", "valid"])
def test_every_example_of_a_half_comes_once_in_each_pass_and_passes_differ(part):
    half = pipeline.halves(COUNT, 0.5, "index")[part == "valid"]
    line = labels(batches(20), part)[:, 0].reshape(-1)
    passes = [line[first : first + len(half)] for first in range(0, 4 * len(half), len(half))]
    for one in passes:
        np.testing.assert_array_equal(np.sort(one), half)
    for one, other in itertools.combinations(passes, 2):
        assert not np.array_equal(one, other)


def test_the_order_depends_on_the_seed_number_and_the_stream_alone():
    both = batches(6, seeds=(3, 4))
    alone = batches(6, seeds=(4,))
    for part in ("train", "valid"):
        np.testing.assert_array_equal(labels(both, part)[:, 1], labels(alone, part)[:, 0])
        assert not np.array_equal(labels(both, part)[:, 0], labels(both, part)[:, 1])
    weights = pipeline.order("train", 3, 0, 50, BATCH)
    alphas = pipeline.order("valid", 3, 0, 50, BATCH)
    assert not np.array_equal(weights, alphas)


def test_the_order_is_this_one_on_every_platform_and_numpy():
    assert pipeline.order("train", 2, 5, 10, 6).tolist() == WEIGHTS
    assert pipeline.order("valid", 2, 5, 10, 6).tolist() == ALPHAS
    assert pipeline.halves(10, 0.5, "shuffled")[0].tolist() == SHUFFLED


@pytest.mark.parametrize("split", ["index", "shuffled"])
@pytest.mark.parametrize(("count", "fraction"), [(10, 0.5), (101, 0.5), (50000, 0.5), (7, 0.29)])
def test_halves_are_disjoint_and_whole(split, count, fraction):
    weights, alphas = pipeline.halves(count, fraction, split)
    assert len(weights) == int(fraction * count)
    assert np.array_equal(np.sort(np.concatenate([weights, alphas])), np.arange(count))
    if split == "index":
        assert np.array_equal(weights, np.arange(len(weights)))
    else:
        assert count < 20 or not np.array_equal(np.sort(weights), np.arange(len(weights)))


@pytest.mark.parametrize("split", ["index", "shuffled"])
def test_batches_of_one_half_never_hold_a_picture_of_the_other(split):
    weights, alphas = pipeline.halves(COUNT, 0.5, split)
    read = batches(12, split=split)
    assert set(labels(read, "train").flat) == set(weights)
    assert set(labels(read, "valid").flat) == set(alphas)


def test_a_batch_may_be_a_whole_half():
    line = labels(batches(4, count=2 * BATCH), "train")
    np.testing.assert_array_equal(np.sort(line, axis=2), np.tile(np.arange(BATCH), (4, 2, 1)))


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 11, 12, 13, 50, 60])
def test_evaluation_covers_each_example_once_in_equal_steps(processes, count):
    indices = np.arange(COUNT)[::-1][:count]
    pictures = numbered_pictures()
    reads = [
        list(
            pipeline.evaluation_batches(
                pictures, indices, rows=block(p, processes), global_batch=BATCH
            )
        )
        for p in range(processes)
    ]
    assert {len(read) for read in reads} == {-(-count // BATCH)}
    seen = []
    for step in zip(*reads, strict=True):
        for batch in step:
            assert batch["image"].shape == (BATCH // processes, 2, 3, 1)
            np.testing.assert_array_equal(numbers(batch["image"]), batch["label"])
            seen += batch["label"][batch["mask"]].tolist()
    assert seen == indices.tolist()


@pytest.mark.parametrize(
    ("count", "fraction", "batch", "smaller"),
    [(19, 0.5, 10, 9), (4000, 0.5, 2001, 2000), (4000, 0.9, 500, 400), (1, 0.5, 1, 0)],
)
def test_a_half_smaller_than_a_batch_is_named(count, fraction, batch, smaller):
    found = rf"global_batch={batch} is more than the {smaller} pictures of the smaller half"
    with pytest.raises(ConfigError, match=found):
        pipeline.halves(count, fraction, "index", batch)
    pipeline.halves(count + 1, fraction, "index", max(smaller, 1))


def test_an_unknown_split_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match="index, shuffled"):
        pipeline.halves(10, 0.5, "random")


def test_nothing_to_evaluate_is_named():
    empty = pipeline.evaluation_batches(numbered_pictures(), [], rows=slice(0, 4), global_batch=4)
    with pytest.raises(ConfigError, match="no pictures"):
        next(empty)
