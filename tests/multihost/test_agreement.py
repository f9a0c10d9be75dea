"""Hosts that differ: all of them end before the first step, and say which one differs in what."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import launching
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.multiprocess


def refused(tmp_path, commands, environments=({}, {})):
    """Returns what each process said, all of which ended with 2 and in time."""
    run = launching.Plain(tmp_path / "said", commands, environments)
    with run:
        codes = run.codes(60)
        said = [run.said(number) for number in range(len(commands))]
    assert codes == [2] * len(commands), said
    assert not any("Traceback" in one for one in said)
    assert sum(one.count("darts-dist: error:") for one in said) == len(commands)
    return said


def test_another_config_is_named_with_its_keys(tmp_path):
    workdir = tmp_path / "run"
    commands = [
        launching.search(workdir),
        launching.search(workdir, "weights.learning_rate=0.02", "checkpoint.every_steps=5"),
        launching.search(workdir),
    ]
    for said in refused(tmp_path, commands, ({}, {}, {})):
        assert "process 1 differs from process 0" in said
        assert "weights.learning_rate is 0.02, there 0.025" in said
        assert "checkpoint.every_steps is 5, there 2" in said
    assert not (workdir / "config.toml").exists()


def test_other_code_is_named(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(launching.ROOT / "darts_dist", other / "darts_dist")
    with (other / "darts_dist" / "optim.py").open("a") as file:
        file.write("\n# one line more\n")
    commands = [launching.search(tmp_path / "run")] * 2
    for said in refused(tmp_path, commands, ({}, {"PYTHONPATH": str(other)})):
        assert "process 1 differs from process 0" in said
        assert "the code of darts_dist is" in said


def test_another_version_of_a_package_is_named(tmp_path):
    """A folder on the path with metadata of its own is what an older installation looks like."""
    folder = tmp_path / "older" / "optax-0.0.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: optax\nVersion: 0.0.1\n")
    path = f"{tmp_path / 'older'}:{launching.ROOT}"
    commands = [launching.search(tmp_path / "run")] * 2
    for said in refused(tmp_path, commands, ({}, {"PYTHONPATH": path})):
        assert "the version of optax is 0.0.1" in said


def test_another_number_of_devices_is_named(tmp_path):
    commands = [launching.search(tmp_path / "run")] * 2
    for said in refused(tmp_path, commands, ({}, {"JAX_NUM_CPU_DEVICES": "2"})):
        assert "process 1 has 2 devices, and process 0 has 1" in said


def folder_of_pictures(root, seed=0, classes=("a", "b")):
    draw = np.random.default_rng(seed)
    for name in classes:
        (root / "train" / name).mkdir(parents=True)
        for number in range(24):
            pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(root / "train" / name / f"{number}.png")
    return str(root)


FOLDER = ("data.kind=image_folder", "data.train_limit=0", "data.global_batch=6")


def test_other_pictures_are_named(tmp_path):
    paths = [folder_of_pictures(tmp_path / str(host)) for host in range(3)]
    changed = pathlib.Path(paths[2]) / "train" / "a" / "3.png"
    pixels = np.array(Image.open(changed))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(changed)
    workdir = tmp_path / "run"
    commands = [launching.search(workdir, *FOLDER, f"data.path={path}") for path in paths]
    for said in refused(tmp_path, commands, ({}, {}, {})):
        assert "process 2 differs from process 0" in said
        assert "the crc32 of the pictures is" in said
        assert "the number" not in said and "the class names" not in said


def test_other_classes_are_named(tmp_path):
    paths = [
        folder_of_pictures(tmp_path / "0", classes=("a", "b")),
        folder_of_pictures(tmp_path / "1", classes=("a", "c", "d")),
    ]
    commands = [launching.search(tmp_path / "run", *FOLDER, f"data.path={path}") for path in paths]
    for said in refused(tmp_path, commands):
        assert "the number of pictures is 72, there 48" in said
        assert "the class names is a, c, d, there a, b" in said


def test_a_host_without_the_data_is_named_by_the_others(tmp_path):
    paths = [folder_of_pictures(tmp_path / "0"), str(tmp_path / "nowhere")]
    commands = [launching.search(tmp_path / "run", *FOLDER, f"data.path={path}") for path in paths]
    first, second = refused(tmp_path, commands)
    assert "process 1 cannot start: " in first and "nowhere" in first
    assert "nowhere" in second and "process 1" not in second


def test_another_run_folder_is_noticed(tmp_path):
    commands = [launching.search(tmp_path / name) for name in ("one", "two")]
    first, second = refused(tmp_path, commands)
    assert "process 1 cannot start: " in first and "two is another folder here" in first
    assert "two is another folder here than on process 0" in second
    assert not (tmp_path / "one" / ".token").exists()


def test_a_changed_config_on_all_hosts_of_a_run_ends_all_with_2(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    printed = subprocess.run(
        launching.search(workdir, "--print"), env=launching.environment(), capture_output=True
    )
    (workdir / "config.toml").write_bytes(printed.stdout)
    commands = [launching.search(workdir, "seeds.first=3")] * 2
    for said in refused(tmp_path, commands):
        assert "seeds.first (was 0, now 3)" in said


def test_a_finished_run_stays_as_it_is_on_all_hosts(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text(json.dumps({"verb": "search", "seeds": []}))
    with launching.Plain(tmp_path / "said", [launching.search(tmp_path / "run")] * 2) as run:
        assert run.codes() == [0, 0]
    assert os.listdir(tmp_path / "run") == ["result.json"]


def test_hosts_that_never_come_end_the_wait_with_4(tmp_path):
    command = launching.search(tmp_path / "run", "cluster.initialization_timeout_s=3")
    late = [sys.executable, "-c", "import time; time.sleep(60)"]
    with launching.Plain(tmp_path / "said", [command, command, late]) as run:
        assert [one.wait(30) for one in run.processes[:2]] == [4, 4]
        for number in range(2):
            assert "the other processes have not come within 3 s" in run.said(number)


def test_a_port_in_use_is_named_with_4(tmp_path):
    command = launching.search(tmp_path / "run", "cluster.initialization_timeout_s=3")
    with launching.Plain(tmp_path / "said", [command, command], taken=True) as run:
        assert run.codes(30) == [4, 4]
        assert f"process 0 cannot listen on port {run.port}" in run.said(0)
        assert "have not come within 3 s" in run.said(1)
