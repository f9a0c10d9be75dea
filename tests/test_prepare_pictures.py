"""The tool's work on folders of pictures: into ArrayRecord files, shares of them, checked."""

import errno
import io
import os

import numpy as np
import pytest
from photos import put_photos
from picture_folders import put
from PIL import Image
from test_prepare_data import tool  # noqa: F401
from test_stored import damage, load

from darts_dist.data import records, subset
from darts_dist.errors import DataError

QUIET = {"per_shard": 4, "short_px": 0, "say": lambda text: None}


@pytest.fixture
def root(tmp_path):
    return put_photos(tmp_path / "photos")


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_becomes_files_that_are_read_by_the_printed_settings(root, tmp_path, tool):  # noqa: F811
    out = tmp_path / "records"
    code, said, err = tool("arrayrecord", root, out, "--per-shard", 4)
    assert (code, err) == (0, "")
    assert said.splitlines()[-1] == f"data.kind=array_record data.path={out}"
    shards = [f"train-0000{n}-of-00004" for n in range(4)]
    shards += ["test-00000-of-00002", "test-00001-of-00002"]
    assert set(tree(out)) == {"index.json", *(f"{name}.array_record" for name in shards)}
    assert len(load(out, kind="array_record").labels) == 15
    before = tree(out)
    code, said, _ = tool("arrayrecord", root, out, "--per-shard", 4)
    assert (code, "written already" in said) == (0, True) and tree(out) == before


def test_what_was_interrupted_is_not_there_and_goes_on(root, tmp_path, monkeypatch):
    out, whole, written = tmp_path / "records", tmp_path / "whole", []
    records.write(root, whole, **QUIET)

    def stop_at_the_third(path, pictures, write=records._write_shard):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, pictures)

    with monkeypatch.context() as patched:
        patched.setattr(records, "_write_shard", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            records.write(root, out, **QUIET)
    with pytest.raises(DataError, match=r"index\.json: plan\.json is there: it was not finished"):
        load(out, kind="array_record")
    kept = {name: (out / name).stat().st_mtime_ns for name in written}
    records.write(root, out, **QUIET)
    assert kept == {name: (out / name).stat().st_mtime_ns for name in written}
    assert tree(out) == tree(whole)


@pytest.mark.parametrize("finished", [True, False])
def test_another_conversion_into_the_same_folder_is_refused(root, tmp_path, finished, monkeypatch):
    out = tmp_path / "records"
    if finished:
        records.write(root, out, **QUIET)
    else:
        monkeypatch.setattr(records, "_write_split", lambda *_: (_ for _ in ()).throw(OSError(5)))
        with pytest.raises(Exception, match="kept"):
            records.write(root, out, **QUIET)
    put(root / "train" / "n0" / "new.png")
    with pytest.raises(DataError, match="other pictures" if finished else "something else"):
        records.write(root, out, **QUIET)


def test_a_folder_that_holds_something_else_is_left_alone(root, tmp_path):
    put(tmp_path / "mine" / "thesis.txt", b"all of it")
    with pytest.raises(DataError, match="is not empty"):
        records.write(root, tmp_path / "mine", **QUIET)
    assert tree(tmp_path / "mine") == {"thesis.txt": b"all of it"}


def test_large_pictures_are_made_smaller_and_small_ones_left_alone(root, tmp_path, tool):  # noqa: F811
    out = tmp_path / "records"
    assert tool("arrayrecord", root, out, "--resize-short", 45)[0] == 0
    small, before = load(out).store, load(root).store
    for at in range(15):
        image, was = (Image.open(io.BytesIO(one.read(at))) for one in (small, before))
        if min(was.size) <= 45:
            assert small.read(at) == before.read(at)
        else:
            assert min(image.size) == 45
            wanted = was.resize(image.size, Image.Resampling.LANCZOS)
            np.testing.assert_allclose(np.asarray(image, int), np.asarray(wanted, int), atol=20)


def test_a_broken_picture_is_named_when_it_has_to_be_made_smaller(root, tmp_path, tool):  # noqa: F811
    damage(root, "n1_2.JPEG")
    code, _, err = tool("arrayrecord", root, tmp_path / "records", "--resize-short", 20)
    assert code == 2 and "train/n1/n1_2.JPEG is broken (image file is truncated" in err


def shorten(path):
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        ("test-00000-of-00002.array_record", shorten, r"has \d+ bytes and index.json says"),
        ("test-00000-of-00002.array_record", os.unlink, "cannot be read: No such file"),
        ("index.json", shorten, "index.json is damaged"),
        ("index.json", os.unlink, "index.json: it is missing"),
    ],
)
def test_files_that_are_not_as_they_were_written_are_named(root, tmp_path, name, harm, message):
    out = tmp_path / "records"
    records.write(root, out, **QUIET)
    harm(out / name)
    with pytest.raises(DataError, match=message):
        load(out, "test", kind="array_record")


def test_files_without_pictures_to_score_say_so(root, tmp_path):
    records.write(root / "train", tmp_path / "records", **QUIET)
    with pytest.raises(DataError, match="no pictures to evaluate on"):
        load(tmp_path / "records", "test")


def test_a_damaged_record_is_named(root, tmp_path):
    out = tmp_path / "records"
    records.write(root, out, **QUIET | {"per_shard": 100})
    shard = out / "train-00000-of-00001.array_record"
    pictures = load(out)
    data, record = bytearray(shard.read_bytes()), pictures.store.read(7)
    data[data.index(record[-80:-40])] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"train/n\d/n\d_\d\.JPEG is broken"):
        load(out).gather(np.arange(15), np.array([7]))


@pytest.mark.parametrize(("fraction", "each"), [(0.1, 1), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_a_subset_has_its_share_of_each_class(tmp_path, tool, fraction, each):  # noqa: F811
    root = put_photos(tmp_path / "photos", train=8)
    code, said, _ = tool("subset", root, tmp_path / "part", "--fraction", fraction)
    assert (code, said.splitlines()[0]) == (0, f"{3 * each} pictures of 3 classes")
    pictures = load(tmp_path / "part")
    assert np.bincount(pictures.labels).tolist() == [each] * 3
    assert pictures.class_names == ("n0", "n1", "n2")
    for name in pictures.store.names:
        assert (tmp_path / "part" / name).samefile(root / name)


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.JPEG"))


def test_a_subset_is_the_same_every_time_and_holds_the_smaller_ones(tmp_path):
    root = put_photos(tmp_path / "photos", train=8)
    for name, fraction in (("a", 0.5), ("b", 0.5), ("c", 0.25)):
        subset.link(root, tmp_path / name, fraction)
    found = [names_in(tmp_path / name) for name in "abc"]
    assert found[0] == found[1] and set(found[2]) < set(found[0])


def test_unequal_classes_keep_their_shares():
    labels = np.repeat([0, 1, 2], [10, 30, 1])
    assert np.bincount(labels[subset.choose(labels, 0.2)]).tolist() == [2, 6, 1]


def test_a_subset_on_another_disk_is_of_symbolic_links(tmp_path, monkeypatch):
    root = put_photos(tmp_path / "photos")

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    subset.link(root, tmp_path / "part", 0.5)
    assert all(path.is_symlink() for path in (tmp_path / "part").rglob("*.JPEG"))
    assert len(load(tmp_path / "part").labels) == 6


def test_a_subset_is_whole_or_not_there(tmp_path, monkeypatch):
    root, links = put_photos(tmp_path / "photos"), []

    def stop_at_the_third(file, place, link=os.link):
        if len(links) == 2:
            raise KeyboardInterrupt
        links.append(link(file, place))

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            subset.link(root, tmp_path / "part", 1.0)
    assert not (tmp_path / "part").exists()
    subset.link(root, tmp_path / "part", 0.4)
    assert len(names_in(tmp_path / "part")) == 6
    with pytest.raises(DataError, match="part is there"):
        subset.link(root, tmp_path / "part", 0.4)


@pytest.mark.parametrize("packed", [False, True])
def test_the_check_names_every_broken_picture(root, tmp_path, tool, packed):  # noqa: F811
    place = tmp_path / "records" if packed else root
    if packed:
        assert tool("arrayrecord", root, place)[0] == 0
    code, said, err = tool("check", place)
    assert (code, said.splitlines()[-1], err) == (0, "21 pictures, all whole", "")
    damage(root, "n1_2.JPEG")
    damage(root / "val", "n0_1.JPEG")
    put(root / "train" / "n0" / "n0_3.JPEG", b"text")
    if packed:
        place = tmp_path / "again"
        assert tool("arrayrecord", root, place)[0] == 0
    code, said, err = tool("check", place)
    lines = [line for line in said.splitlines() if ".JPEG" in line]
    assert sorted(line.partition(":")[0] for line in lines) == [
        "train/n0/n0_3.JPEG",
        "train/n1/n1_2.JPEG",
        "val/n0/n0_1.JPEG",
    ]
    assert code == 2 and "3 of 21 pictures are broken" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("subset", "photos", "part", "--fraction", "0"), "--fraction 0.0; wanted above 0"),
        (("subset", "photos", "part", "--fraction", "1.5"), "--fraction 1.5; wanted"),
        (("arrayrecord", "photos", "out", "--per-shard", "0"), "--per-shard want"),
        (("arrayrecord", "nowhere", "out"), "nowhere cannot be read"),
        (("check", "nowhere"), "nowhere cannot be read"),
    ],
)
def test_a_mistake_is_told_in_one_line(words, message, root, tmp_path, tool, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    code, _, err = tool(*words)
    assert (code, len(err.splitlines())) == (2, 1) and message in err
