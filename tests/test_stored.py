"""Pictures that stay on disk: batches, evaluation, ArrayRecord, broken files."""

import itertools
import threading

import numpy as np
import pytest
from photos import photo, put_photos
from picture_folders import encoded, put

from darts_dist import config
from darts_dist.data import crops, pipeline, records, sources
from darts_dist.errors import ConfigError, DataError

PX = 12
BATCH = 4


def load(path, split="train", *changes, kind="imagenet"):
    given = (f"data.kind={kind}", f"data.path={path}", f"network.image_px={PX}")
    made = config.parse("", "a test", overrides=(*given, "data.global_batch=4", *changes))
    return sources.fit(made, sources.load(made, split))


def parts_of(pictures):
    return dict(
        zip(
            pipeline.STREAMS,
            pipeline.halves(len(pictures.labels), 0.6, "index", BATCH),
            strict=True,
        )
    )


def batches(pictures, steps, *, start=0, seeds=(2, 5), rows=slice(0, BATCH), threads=0):
    iterator = pipeline.batches(
        pictures,
        parts_of(pictures),
        seeds=seeds,
        rows=rows,
        global_batch=BATCH,
        start=start,
        threads=threads,
    )
    read = list(itertools.islice(iterator, steps))
    iterator.close()
    return read


def assert_equal(read, wanted, rows=slice(None)):
    for one, other in zip(read, wanted, strict=True):
        for stream in other:
            for name in ("image", "label"):
                np.testing.assert_array_equal(one[stream][name], other[stream][name][:, rows])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return put_photos(tmp_path_factory.mktemp("photos"), train=8, val=3)


@pytest.fixture(scope="module")
def packed(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "records"
    records.write(root, out, per_shard=5, short_px=0, say=lambda text: None)
    return out


def test_a_picture_is_cut_by_words_of_its_seed_stream_step_and_place(root):
    pictures, step, seed, place = load(root), 7, 5, 2
    (batch,) = batches(pictures, 1, start=step)
    for stream, part in parts_of(pictures).items():
        index = part[pipeline.order(stream, seed, step, len(part), BATCH)[place]]
        generator = np.random.Philox(key=[seed, step * 256 + 128 + pipeline.STREAMS.index(stream)])
        words = generator.random_raw(BATCH * crops.WORDS).reshape(BATCH, -1)[place]
        data = (root / pictures.store.names[index]).read_bytes()
        wanted = crops.cut_random(data, words, image_px=PX, channels=3, area_min=0.08)
        np.testing.assert_array_equal(batch[stream]["image"][1, place], wanted)
        assert batch[stream]["label"][1, place] == pictures.labels[index]


@pytest.mark.parametrize("processes", [2, 4])
def test_the_pictures_do_not_depend_on_the_number_of_processes(root, processes):
    pictures, n = load(root), BATCH // processes
    whole = batches(pictures, 5)
    for process in range(processes):
        rows = slice(process * n, (process + 1) * n)
        assert_equal(batches(pictures, 5, rows=rows, threads=process), whole, rows)


@pytest.mark.parametrize("threads", [0, 2])
def test_starting_at_a_step_equals_having_come_to_it(root, threads):
    pictures = load(root)
    assert_equal(batches(pictures, 3, start=4, threads=threads), batches(pictures, 7)[4:])


def test_a_picture_is_cut_otherwise_each_time_and_for_each_seed(root):
    pictures = load(root).first(1)
    part = {"train": np.zeros(BATCH, np.int64)}
    (batch,) = itertools.islice(
        pipeline.batches(
            pictures,
            part,
            seeds=(0, 1),
            rows=slice(0, BATCH),
            global_batch=BATCH,
            start=0,
            threads=0,
        ),
        1,
    )
    images = batch["train"]["image"].reshape(2 * BATCH, -1)
    assert len(np.unique(images, axis=0)) == 2 * BATCH


def test_evaluation_sees_the_centre_of_every_picture_once(root):
    pictures = load(root, "test")
    count, seen = len(pictures.labels), []
    for process in range(2):
        for batch in pipeline.evaluation_batches(
            pictures,
            np.arange(count),
            rows=slice(2 * process, 2 * process + 2),
            global_batch=BATCH,
            threads=process,
        ):
            seen += [tuple(image.flat) for image in batch["image"][batch["mask"]]]
    files = sorted((root / "val").rglob("*.JPEG"))
    wanted = [crops.cut_centre(file.read_bytes(), image_px=PX, channels=3) for file in files]
    assert sorted(seen) == sorted(tuple(image.flat) for image in wanted)


@pytest.mark.parametrize("kind", ["imagenet", "array_record"])
def test_array_records_hold_the_folder_bit_for_bit(root, packed, kind):
    folder, from_records = load(root), load(packed, kind=kind)
    assert folder.class_names == from_records.class_names == ("n0", "n1", "n2")
    np.testing.assert_array_equal(folder.labels, from_records.labels)
    assert_equal(batches(from_records, 4, threads=2), batches(folder, 4))
    scored = load(root, "test"), load(packed, "test", kind=kind)
    for index in range(len(scored[0].labels)):
        assert scored[0].store.read(index) == scored[1].store.read(index)


def test_first_parts_have_their_share_of_each_class(root):
    pictures = load(root, "train", "data.train_limit=9")
    assert np.bincount(pictures.labels).tolist() == [3, 3, 3]


def test_the_same_list_has_the_same_checksums_and_another_has_others(root, packed, tmp_path):
    same = load(root).checksums()
    assert same == load(root).checksums()
    assert load(packed).checksums()["the crc32 of the labels"] == same["the crc32 of the labels"]
    other = put_photos(tmp_path / "other", train=8, val=3)
    assert load(other).checksums() == same
    with open(other / "train" / "n0" / "n0_1.JPEG", "ab") as file:
        file.write(b"x")
    assert load(other).checksums() != same
    assert sources.identity(load(root))["the size of a picture"] == str((PX, PX, 3))


def damage(root, *names):
    for name in names:
        file = next(root.rglob(name))
        file.write_bytes(file.read_bytes()[:-40])


def test_a_broken_picture_stops_and_is_named(tmp_path):
    root = put_photos(tmp_path)
    damage(root, "n1_2.JPEG")
    for threads in (0, 2):
        with pytest.raises(DataError, match=r"train/n1/n1_2\.JPEG is broken \(.*truncated.*skip"):
            batches(load(root), 20, threads=threads)


def test_the_next_takes_the_place_of_a_broken_one_and_both_are_told(tmp_path, capsys):
    root = put_photos(tmp_path)
    pictures = load(root, "train", "data.broken=skip")
    whole = batches(pictures, 6)
    damage(root, "n1_2.JPEG")
    put(root / "train" / "n0" / "n0_3.JPEG", b"text")
    pictures = load(root, "train", "data.broken=skip")
    gone = [at for at, name in enumerate(pictures.store.names) if "n1_2" in name or "n0_3" in name]
    read = batches(pictures, 6, threads=2)
    for stream, part in parts_of(pictures).items():
        labels = dict(zip(part, pictures.labels[part], strict=True))
        after = dict(zip(part, np.roll(part, -1), strict=True))
        for step, (one, other) in enumerate(zip(read, whole, strict=True)):
            for at, seed in enumerate((2, 5)):
                for place, position in enumerate(
                    pipeline.order(stream, seed, step, len(part), BATCH)
                ):
                    index = part[position]
                    while index in gone:
                        index = after[index]
                    assert one[stream]["label"][at, place] == labels[index]
                    if index == part[position]:
                        np.testing.assert_array_equal(
                            one[stream]["image"][at, place], other[stream]["image"][at, place]
                        )
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and told[-1].endswith("2 so far")
    reasons = (
        "n1_2.JPEG is broken (image file is truncated",
        "n0_3.JPEG is broken (not a picture)",
    )
    assert all(any(reason in line for line in told) for reason in reasons)
    assert_equal(batches(load(root, "train", "data.broken=skip"), 6), read)


def test_a_broken_picture_is_left_out_of_the_count_of_an_evaluation(tmp_path):
    root = put_photos(tmp_path)
    damage(root / "val", "n2_1.JPEG")
    pictures = load(root, "test", "data.broken=skip")
    count = len(pictures.labels)
    read = list(
        pipeline.evaluation_batches(
            pictures, np.arange(count), rows=slice(0, BATCH), global_batch=BATCH
        )
    )
    assert sum(batch["mask"].sum() for batch in read) == count - 1


def test_a_disk_of_broken_pictures_stops_even_where_they_may_be_skipped(tmp_path):
    root = put_photos(tmp_path)
    pictures = load(root, "train", "data.broken=skip")
    for file in root.rglob("*.JPEG"):
        file.unlink()
    with pytest.raises(DataError, match=r"no picture of 9 in a row .* disk is there"):
        batches(pictures, 1)


def test_many_broken_pictures_are_counted_once_each_by_all_threads():
    told = []
    broken = sources.Broken(skip=True, say=told.append)

    def add():
        for index in range(150):
            broken.add(index, f"picture {index}")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [int(line.split("; ")[-1].split()[0]) for line in told] == [1, 2, 3, 4, 5, 10, 100]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("network.in_channels=1",), "data.mean = .*grey pictures"),
        (("network.in_channels=1", "data.mean=[0.5]"), "data.std = .*grey pictures"),
        (("network.in_channels=2",), "network.in_channels = 2"),
        (("data.evaluate_augmented=true",), "data.evaluate_augmented = true"),
        (("data.crop_area_min=0",), "data.crop_area_min = 0"),
        (("data.train_limit=99",), "data.train_limit=99 is more than the 24"),
        (("network.classes=5",), "have 3 classes"),
    ],
)
def test_what_does_not_fit_is_refused(root, changes, message):
    with pytest.raises(ConfigError, match=message):
        load(root, "train", *changes)


def test_grey_pictures_take_the_mean_and_deviation_of_the_config(root):
    grey = ("network.in_channels=1", "data.mean=[0.4]", "data.std=[0.2]")
    pictures = load(root, "train", *grey)
    assert (pictures.mean, pictures.std, pictures.shape) == ((0.4,), (0.2,), (PX, PX, 1))
    assert load(root).mean == sources.IMAGENET_MEAN


@pytest.mark.parametrize("kind", ["imagenet", "array_record"])
def test_no_path_is_named(kind):
    with pytest.raises(DataError, match=rf"data\.path is empty; data\.kind={kind} wants"):
        load("", kind=kind)


def test_pictures_of_all_kinds_and_sizes_lie_in_one_folder(tmp_path):
    put_photos(tmp_path)
    put(tmp_path / "train" / "n0" / "a.png", encoded(photo(1, (5, 200)).convert("P")))
    put(tmp_path / "train" / "n1" / "b.jpg", encoded(photo(1).convert("CMYK"), "JPEG"))
    for batch in batches(load(tmp_path), 12):
        assert batch["train"]["image"].shape == (2, BATCH, PX, PX, 3)
