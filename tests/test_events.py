"""Event files as TensorBoard reads them: what is written, what a resumed run drops, full disks."""

import errno
import io
import os

import numpy as np
import pytest
from board import Board
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto import summary_pb2

from darts_dist.errors import StorageError
from darts_dist.events import ABOUT, Events

TAGS = ("loss/train", "cells/normal", "warnings/skip_connections")


def png(width, height):
    content = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(content, "png")
    return content.getvalue()


def events(folder, on=True):
    return Events(folder, on=on)


def board(folder):
    return Board(folder / "tensorboard")


def test_tensorboard_reads_each_seed_as_a_run(tmp_path):
    record = events(tmp_path)
    record.write(3, 5, {"loss/train": np.float32(1.5)}, pictures={"cells/normal": png(30, 20)})
    record.write(4, 5, {"loss/train": 2.5}, texts={"warnings/skip_connections": "*so many*"})
    record.write(3, 6, {"loss/train": float("nan")})
    record.close()
    read = board(tmp_path)
    assert read.runs == ["seed-5", "seed-6"]
    assert read.everything("seed-5", "scalars", "images", "text") == {
        "loss/train": [(3, 1.5), (4, 2.5)],
        "cells/normal": [(3, png(30, 20))],
        "warnings/skip_connections": [(4, "*so many*")],
    }
    assert [read.about("seed-5", tag) for tag in TAGS] == [ABOUT[tag] for tag in TAGS]
    ((_, lost),) = read.values("seed-6", "loss/train")
    assert np.isnan(lost)


def test_older_readers_find_plain_scalars_and_images(tmp_path):
    record = events(tmp_path)
    record.write(3, 5, {"loss/train": 1.5}, pictures={"cells/normal": png(30, 20)})
    record.close()
    read = EventAccumulator(str(tmp_path / "tensorboard" / "seed-5")).Reload()
    assert [(one.step, one.value) for one in read.Scalars("loss/train")] == [(3, 1.5)]
    (image,) = read.Images("cells/normal")
    assert (image.width, image.height) == (30, 20)
    assert image.encoded_image_string == png(30, 20)


def test_the_class_of_the_data_is_told_beside_the_meaning(tmp_path):
    record = events(tmp_path)
    page = {"pictures": {"cells/normal": png(3, 2)}, "texts": {"warnings/skip_connections": "text"}}
    record.write(3, 5, {"loss/train": 1.5}, **page)
    record.close()
    (file,) = (tmp_path / "tensorboard" / "seed-5").iterdir()
    values = [
        one for event in LegacyEventFileLoader(str(file)).Load() for one in event.summary.value
    ]
    classes = {one.tag: one.metadata.data_class for one in values}
    assert classes["loss/train"] == summary_pb2.DATA_CLASS_SCALAR
    assert classes["cells/normal"] == summary_pb2.DATA_CLASS_BLOB_SEQUENCE
    assert classes["warnings/skip_connections"] == summary_pb2.DATA_CLASS_TENSOR


def test_a_tag_that_nothing_explains_is_not_written(tmp_path):
    with pytest.raises(KeyError, match="loss/trian"):
        events(tmp_path).write(1, 5, {"loss/trian": 1.0})
    assert not (tmp_path / "tensorboard").exists()


def written(record, steps):
    for step in steps:
        page = {
            "pictures": {"cells/normal": png(step, 9)},
            "texts": {"warnings/skip_connections": f"{step}"},
        }
        record.write(step, 5, {"loss/train": step}, **page)


def test_what_came_after_the_checkpoint_is_dropped_and_shown_again(tmp_path, monkeypatch):
    first = events(tmp_path)
    first.drop_after(0)
    first.hparams(5, {"seed": 5}, ["loss/train"])
    written(first, [1, 2, 3, 4, 6])
    first.close()
    monkeypatch.setattr(os, "getpid", lambda: 99999999)  # another process: another file, read later
    second = events(tmp_path)
    second.drop_after(3)
    second.hparams(5, {"seed": 5}, ["loss/train"])
    written(second, [5])
    second.end(5, 5, completed=True)
    second.close()
    read = board(tmp_path)
    for values in read.everything("seed-5", "scalars", "images", "text").values():
        assert [step for step, _ in values] == [1, 2, 3, 5]
    assert read.sessions() == {"seed-5": ({"seed": 5}, {"loss/train": 5}, "STATUS_SUCCESS")}


def test_the_hparams_tab_has_a_row_for_each_seed(tmp_path):
    record = events(tmp_path)
    for seed in (5, 6, 7):
        knobs = {"seed": seed, "data.flip": True, "data.kind": "sample", "rate": 0.5}
        record.hparams(seed, knobs, ["loss/train"])
        record.write(2, seed, {"loss/train": seed / 2})
    record.end(2, 5, completed=True)
    record.end(2, 6, completed=False)
    record.close()
    rows = board(tmp_path).sessions()
    assert [rows[f"seed-{seed}"][2] for seed in (5, 6, 7)] == [
        "STATUS_SUCCESS",
        "STATUS_FAILURE",
        "STATUS_UNKNOWN",
    ]
    knobs, metrics, _ = rows["seed-6"]
    assert knobs == {"seed": 6, "data.flip": True, "data.kind": "sample", "rate": 0.5}
    assert metrics == {"loss/train": 3}


def test_where_it_is_off_nothing_is_written(tmp_path):
    record = events(tmp_path, on=False)
    record.hparams(5, {"seed": 5}, ["loss/train"])
    written(record, [1])
    record.end(1, 5, completed=True)
    record.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_failing_disk_is_a_storage_error(tmp_path, monkeypatch, number):
    record = events(tmp_path)
    written(record, [1])

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("builtins.open", fail)
    monkeypatch.setattr(record._writers[5], "write_event", fail)
    for seed in (5, 6):
        with pytest.raises(StorageError, match=os.strerror(number)):
            record.write(2, seed, {"loss/train": 1})
    monkeypatch.undo()
    record.close()
