import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest

from darts_dist.config import Config, Data, Network
from darts_dist.data import sources
from darts_dist.errors import ConfigError, DataError

NAMES = {"cifar10": [f"thing{n}" for n in range(10)], "cifar100": [f"kind{n}" for n in range(100)]}
FILES = {
    "cifar10": {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]},
    "cifar100": {"train": ["train"], "test": ["test"]},
}
FOLDERS = {
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar100", "python"): "cifar-100-python",
    ("cifar100", "binary"): "cifar-100-binary",
}
KINDS = list(FOLDERS)


def load(kind, path, split):
    return sources.load(Config(data=Data(kind=kind, path=str(path))), split)


def make_batch(kind, file):
    draw = np.random.default_rng(sum(file.encode()))
    rows = draw.integers(0, 256, (3, 3072), np.uint8)
    return rows, [int(label) for label in draw.integers(0, len(NAMES[kind]), 3)]


def python_files(kind):
    label_key, names_key = ("labels", "label_names")
    if kind == "cifar100":
        label_key, names_key = ("fine_labels", "fine_label_names")
    files = {}
    for name in (name for split in FILES[kind].values() for name in split):
        rows, labels = make_batch(kind, name)
        batch = {b"data": rows, label_key.encode(): labels, b"coarse_labels": [0, 1, 2]}
        files[name] = pickle.dumps(batch, 3)
    meta = {names_key.encode(): [name.encode() for name in NAMES[kind]]}
    return files | {"batches.meta" if kind == "cifar10" else "meta": pickle.dumps(meta, 3)}


def binary_files(kind):
    files = {}
    for name in (name for split in FILES[kind].values() for name in split):
        rows, labels = make_batch(kind, name)
        columns = [np.array(labels, np.uint8)[:, None], rows]
        if kind == "cifar100":
            columns.insert(0, np.zeros((3, 1), np.uint8))
        files[f"{name}.bin"] = np.concatenate(columns, axis=1).tobytes()
    names = "batches.meta.txt" if kind == "cifar10" else "fine_label_names.txt"
    return files | {names: ("\n".join(NAMES[kind]) + "\n\n").encode()}


def make_folder(kind, form, parent):
    folder = parent / FOLDERS[kind, form]
    folder.mkdir()
    for name, data in (python_files if form == "python" else binary_files)(kind).items():
        (folder / name).write_bytes(data)
    return folder


def make_archive(kind, form, parent):
    path = parent / f"{kind.replace('cifar', 'cifar-')}-{form}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in (python_files if form == "python" else binary_files)(kind).items():
            member = tarfile.TarInfo(f"{FOLDERS[kind, form]}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def loaded(config):
    return sources.fit(config, sources.load(config, "train"))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("kind", "form"), KINDS)
def test_every_official_layout_gives_the_same_pictures_from_every_path(kind, form, split, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folder = make_folder(kind, form, tmp_path / "a")
    archive = make_archive(kind, form, tmp_path / "b")
    batches = [make_batch(kind, name) for name in FILES[kind][split]]
    rows = np.concatenate([rows for rows, _ in batches])
    for path in (folder, folder.parent, archive, archive.parent, str(archive)):
        pictures = load(kind, path, split)
        assert pictures.images.flags.c_contiguous
        assert pictures.images.shape == (len(rows), 32, 32, 3)
        np.testing.assert_array_equal(pictures.images[:, 5, 7, 1], rows[:, 1024 + 5 * 32 + 7])
        np.testing.assert_array_equal(pictures.images[:, 31, 0, 2], rows[:, 2048 + 31 * 32])
        assert pictures.labels.dtype == np.int32
        assert pictures.labels.tolist() == [label for _, labels in batches for label in labels]
        assert list(pictures.class_names) == NAMES[kind]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a", tmp_path / "b"]
    assert list((tmp_path / "b").iterdir()) == [archive]


def test_the_sample_has_balanced_classes_in_both_halves():
    train, test = load("sample", "", "train"), load("sample", "", "test")
    assert train.images.shape == (4000, 32, 32, 3)
    assert test.images.shape == (1000, 32, 32, 3)
    assert train.images.dtype == np.uint8
    for labels in (train.labels[:2000], train.labels[2000:]):
        assert np.bincount(labels).tolist() == [200] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert train.class_names[5] == "dog"


def test_the_sample_looks_like_the_set_it_is_drawn_from():
    images = load("sample", "", "train").images / 255
    np.testing.assert_allclose(images.mean((0, 1, 2)), sources.CIFAR10_MEAN, atol=0.01)
    np.testing.assert_allclose(images.std((0, 1, 2)), sources.CIFAR10_STD, atol=0.01)


def test_an_unknown_kind_is_named_with_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"cifar11.*cifar10, cifar100, image_folder, imagenet, sample"
    ):
        load("cifar11", "", "train")


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist.*cifar-10-batches-py"):
        load("cifar10", tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match=r"data\.path is empty.*cifar-10-python\.tar\.gz"):
        load("cifar10", "", "train")


def test_missing_files_are_listed(tmp_path):
    folder = make_folder("cifar10", "python", tmp_path)
    (folder / "data_batch_2").unlink()
    (folder / "data_batch_5").unlink()
    with pytest.raises(DataError, match=r"no data_batch_2, data_batch_5;"):
        load("cifar10", folder, "train")
    with pytest.raises(DataError, match=r"no train, meta;"):
        load("cifar100", folder, "train")


@pytest.mark.parametrize(("kind", "form"), KINDS)
def test_a_truncated_file_is_an_error(kind, form, tmp_path):
    folder = make_folder(kind, form, tmp_path)
    file = folder / (FILES[kind]["test"][0] + (".bin" if form == "binary" else ""))
    data = file.read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(DataError, match=file.name):
            load(kind, folder, "test")


def test_a_damaged_archive_is_an_error(tmp_path):
    archive = make_archive("cifar10", "binary", tmp_path)
    data = archive.read_bytes()
    for length in (0, 5, 1000, len(data) // 2, len(data) - 9, len(data) - 1):
        archive.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"tar\.gz|no .*test_batch"):
            load("cifar10", archive, "test")
    draw = np.random.default_rng(0)
    for place in draw.integers(100, len(data), 60):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(draw.integers(0, 8))
        archive.write_bytes(bytes(damaged))
        with pytest.raises(DataError):
            load("cifar10", archive, "test")
    archive.write_bytes(gzip.compress(b"no archive" * 1000))
    with pytest.raises(DataError):
        load("cifar10", archive, "test")
    archive.write_bytes(b"no gzip")
    with pytest.raises(DataError, match="not a whole"):
        load("cifar10", archive, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": np.zeros((3, 3071), np.uint8)}, r"uint8\[3, 3071\]; wanted uint8"),
        ({b"data": np.zeros((3, 3072), np.int32)}, r"int32\[3, 3072\]; wanted uint8"),
        ({b"data": np.zeros(9216, np.uint8)}, r"uint8\[9216\]; wanted"),
        ({b"data": [1, 2]}, r"no array; wanted uint8"),
        ({b"labels": [1, 2, 10]}, r"label 10; wanted 0 to 9"),
        ({b"labels": [1, -1, 2]}, r"label -1; wanted 0 to 9"),
        ({b"labels": [1, 2]}, r"3 pictures and 2 labels"),
        ({b"labels": [1, 2, b"3"]}, r"not a list of integers"),
        ({b"labels": 3}, r"not a list of integers"),
        ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, r"0 pictures"),
    ],
)
def test_wrong_content_is_named(change, message, tmp_path):
    folder = make_folder("cifar10", "python", tmp_path)
    rows, labels = make_batch("cifar10", "test_batch")
    batch = {b"data": rows, b"labels": labels} | change
    (folder / "test_batch").write_bytes(pickle.dumps(batch, 3))
    with pytest.raises(DataError, match="test_batch.*" + message):
        load("cifar10", folder, "test")


def test_another_pickle_than_a_batch_is_named(tmp_path):
    folder = make_folder("cifar10", "python", tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps([1, 2], 2))
    with pytest.raises(DataError, match="holds a list; wanted a dict"):
        load("cifar10", folder, "test")
    (folder / "test_batch").write_bytes(pickle.dumps({"data": 1, "fine_labels": 2}, 2))
    with pytest.raises(DataError, match=r'no entry "labels" \(found: data, fine_labels\)'):
        load("cifar10", folder, "test")
    (folder / "test_batch").write_bytes(pickle.dumps({"data": open}, 2))
    with pytest.raises(DataError, match="unsafe pickle"):
        load("cifar10", folder, "test")


def test_a_wrong_number_of_class_names_is_named(tmp_path):
    folder = make_folder("cifar10", "binary", tmp_path)
    (folder / "batches.meta.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match="2 class names; wanted 10"):
        load("cifar10", folder, "test")


@pytest.mark.parametrize(
    ("data", "network", "message"),
    [
        ({}, {"classes": 9}, r"network\.classes=9, .* have 10 classes; use 10 or 0"),
        ({}, {"classes": 11}, r"network\.classes=11, .* have 10 classes; use 10 or 0"),
        (
            {},
            {"image_px": 16},
            r"network\.image_px=16, .* 32x32 pixels of 3 channels; set it to 32",
        ),
        ({}, {"in_channels": 1}, r"network\.in_channels=1, .* set it to 3"),
        ({"train_limit": 5000}, {}, r"data\.train_limit=5000 is more than the 4000 pictures"),
    ],
)
def test_pictures_that_do_not_fit_the_config_are_an_error(data, network, message):
    config = Config(data=Data(**data), network=Network(**network))
    with pytest.raises(ConfigError, match=message):
        loaded(config)


def test_a_set_with_published_statistics_has_those_unless_others_are_given():
    pictures = loaded(Config())
    assert (pictures.mean, pictures.std) == (sources.CIFAR10_MEAN, sources.CIFAR10_STD)
    pictures = loaded(Config(data=Data(mean=(0.1, 0.2, 0.3), train_limit=128)))
    assert (pictures.mean, pictures.std) == ((0.1, 0.2, 0.3), sources.CIFAR10_STD)


@pytest.mark.parametrize("block", [1, 100, 2**20])
def test_statistics_are_measured_block_by_block_as_over_all(block, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", block)
    images = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), np.uint8)
    images[..., 1] = 51
    mean, std = sources.measure(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-14)
    np.testing.assert_allclose(std[::2], images.std((0, 1, 2))[::2] / 255, rtol=1e-14)
    assert std[1] == 1
