"""Users' own pictures: what is refused and how that is told; a search on some by command line."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import pytest
from picture_folders import (
    PX,
    draw,
    encoded,
    put,
    put_numbered,
    read,
    settings,
)
from PIL import Image

from darts_dist import cli, cluster
from darts_dist.data import folder
from darts_dist.errors import ConfigError, DataError

BROKEN = {
    "b/cut.jpg": (encoded(Image.effect_noise((64, 64), 99), "JPEG")[:-900], "truncated"),
    "b/cut.png": (encoded(Image.effect_noise((64, 64), 99))[:-900], "truncated"),
    "b/empty.png": (b"", "not a picture"),
    "b/text.jpg": (b"this is no picture\n" * 9, "not a picture"),
    "b/drawing.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "b/deep.tif": (encoded(draw(0.5, mode="F"), "TIFF"), "32 bits"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_what_is_wrong(name, tmp_path):
    put_numbered(tmp_path, {"a": 3, "b": 3})
    data, reason = BROKEN[name]
    put(tmp_path / name, data)
    with pytest.raises(DataError, match=rf"1 of 7 files are broken: {name} \(.*{reason}"):
        read(tmp_path)


def test_all_broken_files_are_found_at_once_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "BLOCK", 4)
    put_numbered(tmp_path, {"a": 3, "b": 3})
    for name, (data, _) in BROKEN.items():
        put(tmp_path / name, data)
    with pytest.raises(DataError, match="6 of 12 files are broken: b/cut") as caught:
        read(tmp_path)
    assert str(caught.value).count(" b/") == folder.NAMED
    assert "and 1 more; mend or remove them, or leave them out: data.broken=skip" in str(caught)
    said = []
    images, labels, _ = read(tmp_path, skip_broken=True, said=said)
    assert (len(images), np.bincount(labels).tolist()) == (6, [3, 3])
    assert len(said) == 1 and "warning" in said[0] and "6 of 12" in said[0]


def test_skipping_keeps_labels_with_their_pictures_and_reaches_the_limit(tmp_path):
    put_numbered(tmp_path, {"a": 20, "b": 20})
    for number in range(0, 20, 3):
        put(tmp_path / "a" / f"{number:03}.png", b"")
    images, labels, _ = read(tmp_path, limit=25, skip_broken=True)
    assert len(images) == len(labels) == 25
    np.testing.assert_array_equal(images[:, 0, 0, 0] >= 50, labels == 1)


def test_a_class_without_a_whole_picture_is_refused_even_when_skipping(tmp_path):
    put_numbered(tmp_path, {"a": 3, "b": 3})
    put(tmp_path / "c" / "x.png", b"")
    with pytest.raises(DataError, match=r"no picture is left of c"):
        read(tmp_path, skip_broken=True)


def test_a_picture_too_large_to_be_true_is_named_without_noise(tmp_path, monkeypatch):
    put_numbered(tmp_path, {"a": 1, "b": 1})
    put(tmp_path / "a" / "huge.png", encoded(draw(size=(50, 50))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with warnings.catch_warnings(record=True) as caught:
        assert len(read(tmp_path)[0]) == 3
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with pytest.raises(DataError, match=r"a/huge\.png \(Image size \(2500 pixels\) exceeds"):
            read(tmp_path)
    assert not caught


@pytest.fixture
def as_a_user():
    """A folder of a user who may not read everything, which root becomes for the test."""
    nobody, root = 65534, os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:  # root's own folders are closed to all others
        if root:
            os.chown(folder, nobody, nobody)
            os.seteuid(nobody)
        try:
            yield pathlib.Path(folder)
        finally:
            if root:
                os.seteuid(0)


def test_what_may_not_be_read_is_named(as_a_user):
    put_numbered(as_a_user, {"a": 2, "b": 2})
    (as_a_user / "a" / "000.png").chmod(0)
    with pytest.raises(DataError, match=r"1 of 4 files .* a/000\.png \(Permission denied\)"):
        read(as_a_user)
    (as_a_user / "b").chmod(0)
    try:
        with pytest.raises(DataError, match=r"b cannot be read: Permission denied"):
            read(as_a_user)
    finally:
        (as_a_user / "b").chmod(0o700)


def test_empty_classes_are_named_with_what_was_looked_for(tmp_path):
    put_numbered(tmp_path, {"a": 1, "b": 1})
    put(tmp_path / "c" / "notes.txt")
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match=r"no picture in c, d; looked for \*\.jpg .*\*\.tiff"):
        read(tmp_path)


def test_one_class_is_refused_because_there_is_nothing_to_tell_apart(tmp_path):
    put_numbered(tmp_path / "train", {"a": 2})
    with pytest.raises(DataError, match=r"only one class, a, .* wanted at least two"):
        read(tmp_path)


def test_what_is_no_folder_of_classes_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.path is empty; .*train/<class>/\*"):
        read("")
    with pytest.raises(DataError, match=r"nowhere cannot be read: No such file"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"x\.png cannot be read: Not a directory"):
        read(put(tmp_path / "flat" / "x.png"))
    with pytest.raises(DataError, match=r"cannot be read: .*null"):
        read("a\0b")
    with pytest.raises(DataError, match=r"flat: no folder of a class"):
        read(tmp_path / "flat")
    put(tmp_path / "split" / "train" / "x.png")
    put(tmp_path / "split" / "val" / "x.png")
    with pytest.raises(DataError, match=r"train: no folder of a class"):
        read(tmp_path / "split")


def test_pictures_that_do_not_fit_into_memory_are_refused_before_they_are_read(
    tmp_path, monkeypatch
):
    put_numbered(tmp_path, {"a": 3, "b": 3})
    monkeypatch.setattr(folder, "free_memory", lambda system: 4 * PX * PX * 3)
    with pytest.raises(DataError, match=r"6 pictures of 8x8x3 take .*data\.train_limit.*image_px"):
        read(tmp_path)
    assert len(read(tmp_path, limit=4)[0]) == 4
    monkeypatch.setattr(folder, "free_memory", lambda system: None)
    assert len(read(tmp_path)[0]) == 6


def test_free_memory_is_the_least_that_machine_and_groups_leave(tmp_path):
    assert folder.free_memory(tmp_path) is None
    put(tmp_path / "proc/meminfo", b"MemTotal: 900 kB\nMemAvailable:   500 kB\n")
    put(tmp_path / "proc/self/cgroup", b"4:memory:/old\n0::/batch/job\n")
    assert folder.free_memory(tmp_path) == 500 * 1024
    for group, limit, used in (("batch", "400000", "100000"), ("batch/job", "max", "5")):
        place = tmp_path / "sys/fs/cgroup" / group
        put(place / "memory.max", limit.encode())
        put(place / "memory.current", used.encode())
        put(place / "memory.stat", b"anon 7\ninactive_file 1000\n")
    assert folder.free_memory(tmp_path) == 400000 - 100000 + 1000
    put(tmp_path / "sys/fs/cgroup/batch/memory.current", b"500000")
    assert folder.free_memory(tmp_path) == 0


def test_long_reading_tells_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "BLOCK", 2)
    monkeypatch.setattr(folder, "SAY_EVERY_S", -1)
    put_numbered(tmp_path, {"a": 3, "b": 3})
    said = []
    read(tmp_path, said=said)
    assert said == ["read 2 of 6 pictures", "read 4 of 6 pictures"]


def test_channels_other_than_grey_or_colour_are_refused():
    with pytest.raises(ConfigError, match=r"in_channels = 4; wanted 1 \(grey\) or 3 \(colour\)"):
        settings("x", "network.in_channels=4")


# By the command line.


def missing(root):
    return root / "nowhere"


def one_class(root):
    put_numbered(root, {"a": 30})
    return root


def empty_class(root):
    put_numbered(root, {"a": 30, "b": 30, "c": 0})
    (root / "c").mkdir()
    return root


def several_broken(root):
    put_numbered(root, {"a": 30, "b": 30})
    for number in range(20):
        put(root / "b" / f"{number:03}.png", b"no\npicture")
    return root


def too_few(root):
    put_numbered(root, {"a": 3, "b": 3})
    return root


def three_classes(root):
    put_numbered(root, {"a": 30, "b": 30, "c": 30})
    return root


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (missing, "data.broken=stop", "nowhere cannot be read"),
        (one_class, "data.broken=stop", "only one class"),
        (empty_class, "data.broken=stop", "no picture in c"),
        (several_broken, "data.broken=stop", "20 of 60 files are broken"),
        (too_few, "data.broken=stop", "more than the 3 pictures of the smaller half"),
        (three_classes, "network.classes=2", "3 classes; use 3 or 0"),
        (three_classes, "data.train_limit=95", "data.train_limit=95 is more than the 90"),
        (three_classes, "data.broken=skp", "did you mean skip?"),
        (three_classes, "network.in_channels=2", "wanted 1 (grey) or 3 (colour)"),
    ],
)
def test_bad_pictures_end_a_search_with_code_2_and_a_line(
    make, change, message, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(cluster, "start", lambda **_: None)  # jax runs already
    words = ["search", "configs/tiny.toml", "data.kind=image_folder", "data.train_limit=0"]
    words += [f"data.path={make(tmp_path / 'data')}", change]
    assert cli.main([*words, "--workdir", str(tmp_path / "run")]) == 2
    told = capfd.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert told.count("\n") <= 4


@pytest.mark.medium
def test_a_search_runs_on_folders_of_pictures(tmp_path):
    noise = np.random.default_rng(0)
    classes = tmp_path / "data" / "train"
    for name, level in (("dark", 0), ("light", 150), ("žlutá", 100)):
        for number in range(12):
            pixels = Image.fromarray(noise.integers(level, level + 90, (20, 30, 3), np.uint8))
            put(classes / name / f"{number}.jpg", encoded(pixels, "JPEG"))
    put(classes / "dark" / "broken.jpg", b"")
    command = [sys.executable, "-m", "darts_dist", "search", "configs/tiny.toml"]
    command += ["data.kind=image_folder", f"data.path={tmp_path / 'data'}", "data.broken=skip"]
    command += ["data.train_limit=0", "network.in_channels=1", "network.image_px=16"]
    command += ["network.nodes=1", "network.channels=2", "method.preset=darts_first"]
    command += ['space.operations=["skip_connect", "max_pool_3x3", "sep_conv_3x3"]']
    command += ["seeds.count=1", "schedule.epochs=1", "schedule.steps_per_epoch=3"]
    done = subprocess.run(
        [*command, "--workdir", str(tmp_path / "run")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 37 files are broken: train/dark/broken.jpg (not a picture)" in done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["seeds"][0]["status"] == "completed"
