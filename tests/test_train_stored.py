"""Training on pictures that stay on disk, from the command line."""

import json
import shutil

import pytest
import small_training as small
from photos import put_photos
from picture_folders import put
from test_train import darts, read

from darts_dist import config, genotype, trainconfig

SIZES = (
    "data.kind=imagenet",
    "network.image_px=64",
    "network.stem=imagenet",
    "network.channels=2",
    "network.layers=1",
    "data.global_batch=8",
    "data.colour_jitter=0.4",
    "data.hue_jitter=0.2",
    "data.cutout_px=0",
    "regularisation.auxiliary_weight=0",
    "schedule.steps_per_epoch=1",
    "schedule.epochs=2",
    "checkpoint.every_steps=1",
    "seeds.count=1",
    "mesh.seed=1",
    "mesh.data=1",
)


def train(root, folder, *changes):
    value = genotype.to_json(small.GENOTYPE)
    words = (f"genotype={value}", f"data.path={root}", *SIZES, *changes)
    return darts("train", *words, "--workdir", folder)


@pytest.mark.medium
def test_two_steps_on_pictures_from_disk_are_resumed_exactly_and_scored(tmp_path, capsys):
    root, run = put_photos(tmp_path / "photos", val=3), tmp_path / "run"
    assert train(root, run) == 0
    whole = read(run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "2")
    assert train(root, run) == 0
    again = read(run)
    assert again["resumed_from"] == [1] and again["state_digest"] == whole["state_digest"]
    assert again["seeds"] == whole["seeds"]
    put(root / "val" / "n1" / "n1_1.JPEG", b"text")
    capsys.readouterr()
    assert darts("evaluate", run, "data.broken=skip", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out.splitlines()[-1])["metrics"]["examples"] == 8
    assert "val/n1/n1_1.JPEG is broken (not a picture); the next takes its place" in told.err


def test_select_reads_the_pictures_as_the_search_did(tmp_path):
    given = ("data.kind=imagenet", "data.colour_jitter=0.4", "data.crop_area_min=0.5")
    (tmp_path / "config.toml").write_text(config.dump(config.load(None, given)))
    data = trainconfig.of_search(str(tmp_path)).data
    assert (data.kind, data.colour_jitter, data.crop_area_min, data.cutout_px) == (
        "imagenet",
        0.4,
        0.5,
        0,
    )


@pytest.mark.medium
def test_a_run_that_a_broken_picture_stopped_goes_on_without_it(tmp_path, capsys):
    root, run = put_photos(tmp_path / "photos"), tmp_path / "run"
    for label in range(3):
        put(root / "val" / f"n{label}" / f"n{label}_1.JPEG", b"text")
    assert train(root, run) == 2
    assert ".JPEG is broken (not a picture); mend or remove it" in capsys.readouterr().err
    assert train(root, run, "data.broken=skip") == 0
    assert "the next takes its place; 3 so far" in capsys.readouterr().err
    assert read(run)["status"] == "completed"
