"""Pictures that stay on disk, read by several real processes."""

import json
import sys

import launching
import pytest
from photos import put_photos
from picture_folders import put

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(600)]
SIZES = (
    "data.kind=imagenet",
    "network.image_px=64",
    "network.stem=imagenet",
    "network.channels=2",
    "network.layers=1",
    "data.train_limit=0",
    "data.global_batch=4",
    "schedule.steps_per_epoch=2",
    "schedule.epochs=2",
    "mesh.data=2",
)
CELL = {
    "normal": [["skip_connect", 0], ["max_pool_3x3", 1]],
    "normal_concat": [2],
    "reduce": [["skip_connect", 0], ["max_pool_3x3", 1]],
    "reduce_concat": [2],
}
TRAIN = (
    f"genotype={json.dumps(CELL)}",
    "data.cutout_px=0",
    "data.colour_jitter=0.4",
    "regularisation.auxiliary_weight=0",
)


def done(folder, processes, devices, command):
    """Returns the result of a run that is left alone, and what process 0 told."""
    told = folder.parent / f"{folder.name}.out"
    with told.open("w") as output:
        team = launching.launcher(processes, devices, [*command, "--workdir", str(folder)])
        with launching.running(team, output=output) as process:
            assert process.wait(300) == 0, told.read_text()
    return json.loads((folder / "result.json").read_text()), told.read_text()


@pytest.mark.slow
def test_a_search_reads_the_same_pictures_on_two_processes_as_on_one(tmp_path):
    root = put_photos(tmp_path / "photos")
    words = (*launching.SIZES, f"data.path={root}", *SIZES, "method.preset=darts_first")
    command = [*launching.SEARCH, *words]
    split, _ = done(tmp_path / "split", 2, 1, command)
    alone, _ = done(tmp_path / "alone", 1, 2, command)
    assert split["state_digest"] == alone["state_digest"]
    assert split["devices"]["processes"] == 2


def test_a_training_counts_every_scored_picture_once_and_tells_of_broken_ones(tmp_path):
    root = put_photos(tmp_path / "photos", val=3)
    put(root / "val" / "n1" / "n1_1.JPEG", b"text")
    train = [sys.executable, "-m", "darts_dist", "train", f"data.path={root}", *SIZES, *TRAIN]
    train.append("data.broken=skip")
    split, told = done(tmp_path / "split", 2, 1, train)
    alone, _ = done(tmp_path / "alone", 1, 2, train)
    assert split["state_digest"] == alone["state_digest"]
    assert split["metrics"] == alone["metrics"]
    logs = [tmp_path / "split" / "processes" / f"process-{one}.log" for one in (0, 1)]
    assert any("n1_1.JPEG is broken" in log.read_text() for log in logs), told
