"""The files of configs/, as they are shipped."""

import importlib.resources
import pathlib

import pytest

from darts_dist import config, schema, trainconfig
from darts_dist.errors import ConfigError

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
PAPER = ("train_cifar10", "train_cifar10_short")
FILES = sorted(FOLDER.glob("*.toml"))


def test_the_files_that_are_promised_are_there():
    names = {"sample", "tiny", "search_cifar10", "train_sample", "train_cifar10"}
    names |= {"search_ptb", "train_ptb", "train_wikitext2", "search_text_sample"}
    names |= {"train_cifar10_short", "train_imagenet", "search_imagenet"}
    assert names <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_loads_and_dumps_back(file):
    load = trainconfig.load if file.stem.startswith("train_") else config.load
    made = load(str(file))
    assert made.name == file.stem
    assert config.parse_as(type(made), config.dump(made), "dump", "dump") == made


@pytest.mark.parametrize(("name", "module"), [("sample", config), ("train_sample", trainconfig)])
def test_the_packaged_configs_are_those_in_configs(name, module):
    file = importlib.resources.files("darts_dist").joinpath(f"configs/{name}.toml")
    assert file.read_bytes() == (FOLDER / f"{name}.toml").read_bytes(), (
        f"cp configs/{name}.toml darts_dist/configs/"
    )
    assert module.load(None) == module.load(str(FOLDER / f"{name}.toml"))


def test_the_full_training_is_the_paper_s_and_the_short_one_differs_in_epochs():
    made, short = (trainconfig.load(str(FOLDER / f"{name}.toml")) for name in PAPER)
    free = {"name", "data.kind", "data.mean", "data.std"}
    assert {key for key, *_ in config.differences(made, trainconfig.TrainConfig())} <= free
    assert config.differences(made, short) == [
        ("name", *PAPER),
        ("schedule.epochs", 600, 100),
    ]


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


def test_the_configs_of_texts_are_the_paper_s():
    search = config.load(str(FOLDER / "search_ptb.toml"))
    free = {"name", "data.kind"}
    assert {key for key, *_ in config.differences(search, config.TextConfig())} <= free
    ptb, wikitext = (
        trainconfig.load(str(FOLDER / f"{name}.toml")) for name in ("train_ptb", "train_wikitext2")
    )
    changed = config.differences(ptb, trainconfig.TextTrainConfig())
    assert {key for key, *_ in changed} <= free
    assert config.differences(ptb, wikitext) == [
        ("name", "train_ptb", "train_wikitext2"),
        ("network.channels", 850, 700),
        ("weights.weight_decay", 8e-7, 5e-7),
        ("regularisation.dropout_hidden", 0.25, 0.15),
    ]


def test_the_training_on_imagenet_is_the_paper_s():
    made = trainconfig.load(str(FOLDER / "train_imagenet.toml"))
    assert (made.schedule.epochs, made.data.global_batch) == (250, 128)
    weights, network, against = made.weights, made.network, made.regularisation
    assert (weights.learning_rate, weights.schedule, weights.decay) == (0.1, "step", 0.97)
    assert (weights.weight_decay, weights.clip_norm, weights.momentum) == (3e-5, 5.0, 0.9)
    assert (against.label_smoothing, against.auxiliary_weight, against.drop_path) == (0.1, 0.4, 0)
    assert (network.channels, network.layers, network.image_px) == (48, 14, 224)
    assert (made.data.colour_jitter, made.data.hue_jitter, made.data.cutout_px) == (0.4, 0.2, 0)


def test_the_search_on_imagenet_takes_a_tenth_and_a_fortieth():
    made = config.load(str(FOLDER / "search_imagenet.toml"))
    assert 0.125 * made.data.train_fraction == 0.1
    assert 0.125 * (1 - made.data.train_fraction) == pytest.approx(0.025)
    assert (made.network.stem, made.network.image_px) == ("imagenet", 224)
    assert (made.schedule.epochs, made.method.warmup_epochs) == (50, 35)


def test_a_config_says_what_its_space_and_stem_are_or_takes_the_default():
    for file in FILES:
        tree = schema.parse(file.read_text(), str(file))
        assert "name" not in tree, f"{file}: a config is named by its file"


@pytest.mark.parametrize("name", ("sample", "tiny", "search_cifar10", "search_imagenet"))
def test_the_cells_of_every_search_can_be_selected(name):
    trainconfig.after_search(config.load(str(FOLDER / f"{name}.toml")), "run")


def test_cells_on_maps_too_small_for_an_auxiliary_head_are_selected_without_one():
    sample, full = (
        config.load(str(FOLDER / f"{name}.toml")) for name in ("sample", "search_cifar10")
    )
    for search, weight in ((sample, 0), (full, 0.4)):
        assert trainconfig.after_search(search, "run").regularisation.auxiliary_weight == weight
    with pytest.raises(ConfigError, match=r"auxiliary_weight = 0.4; wanted 0: .* one pixel"):
        trainconfig.after_search(sample, "run", ["regularisation.auxiliary_weight=0.4"])
