"""The files of configs/, as they are shipped."""

import importlib.resources
import pathlib

import pytest

from darts_dist import config, schema

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
FILES = sorted(FOLDER.glob("*.toml"))


def test_the_files_that_are_promised_are_there():
    assert {"sample", "tiny", "search_cifar10"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_loads_and_dumps_back(file):
    made = config.load(str(file))
    assert made.name == file.stem
    assert config.parse(config.dump(made), "dump") == made


def test_the_packaged_sample_is_the_one_in_configs():
    packaged = importlib.resources.files("darts_dist").joinpath("configs/sample.toml").read_bytes()
    assert packaged == (FOLDER / "sample.toml").read_bytes(), (
        "cp configs/sample.toml darts_dist/configs/"
    )
    assert config.load(None) == config.load(str(FOLDER / "sample.toml"))


def test_the_sample_searches_both_cells_of_the_paper_with_two_seeds():
    made = config.load(None)
    assert made.data.kind == "sample"
    assert (made.network.nodes, len(made.space.operations), made.seeds.count) == (4, 8, 2)
    assert made.network.layers >= 3
    assert made.schedule.epochs >= 3
    assert made.cluster.cpu_devices == 2


def test_the_tiny_config_is_a_search_for_tests_of_faults():
    made = config.load(str(FOLDER / "tiny.toml"))
    assert made.data.kind == "sample"
    assert (made.network.nodes, len(made.space.operations), made.seeds.count) == (4, 8, 2)
    assert made.network.layers >= 3
    assert made.data.global_batch % 8 == 0
    assert made.checkpoint.every_steps == 2
    assert made.schedule.epochs * made.schedule.steps_per_epoch >= 12


def test_the_full_search_is_the_paper_s():
    made = config.load(str(FOLDER / "search_cifar10.toml"))
    paper = config.Config()
    free = {"name", "data.kind", "data.mean", "data.std"}
    assert {key for key, *_ in config.differences(made, paper)} <= free


def test_a_config_says_what_its_space_and_stem_are_or_takes_the_default():
    for file in FILES:
        tree = schema.parse(file.read_text(), str(file))
        assert "name" not in tree, f"{file}: a config is named by its file"
