"""Networks in PyTorch's files: evaluated, made a run, trained on, and written back."""

import functools
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_training as small
from small_training import GENOTYPE
from torch_files import as_legacy, as_zip, state_of

from darts_dist import (
    cli,
    config,
    ending,
    evaluate,
    genotype,
    torchfile,
    trainconfig,
    weightfile,
)
from darts_dist.data import sources
from darts_dist.errors import ConfigError
from darts_dist.interop_network import network_entries, network_from_torch
from darts_dist.nets.network import Network
from darts_dist.nets.pure import pure

NAMING = {"genotype": GENOTYPE, "stem": "imagenet", "layers": 3}
SIZES = {"channels": 2, "channels_in": 3, "classes": 10, "auxiliary": False}
SETTINGS = (
    f"genotype={genotype.to_json(GENOTYPE)}",
    "network.image_px=32",
    "data.global_batch=16",
    "mesh.data=1",
    "mesh.seed=1",
    "evaluation.examples=100",
)
TRAINING = ("data.train_limit=64", "schedule.epochs=1", "log.every_steps=2")


def weights(**changes):
    """Random weights of a small network, by the original's names."""
    rng, state = np.random.default_rng(0), {}
    for entry in network_entries(**NAMING, **SIZES | changes):
        value = rng.normal(size=entry.shape).astype(np.float32)
        state[entry.name] = np.abs(value) + 0.5 if entry.name.endswith("_var") else value / 2
    return state


def put(path, state, container=as_zip):
    path.write_bytes(container(state_of(state)))
    return path


def darts(*words):
    return cli.main([str(word) for word in words])


def tool(*words):
    return ending.outcome(
        lambda: importlib.import_module("import_torch").main(list(map(str, words)))
    )


@pytest.fixture
def told(capsys):
    """Returns the JSON object that evaluating prints."""

    def told(*words):
        capsys.readouterr()
        assert darts("evaluate", *words, "--json") == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return told


# What follows from the tensors.


def test_sizes_follow_from_the_tensors_and_overrides_come_on_top(tmp_path):
    found = weightfile.config_of(put(tmp_path / "net.v2.pt", weights()), ["data.global_batch=7"])
    network = found.network
    assert (network.stem, network.channels, network.layers) == ("imagenet", 2, 3)
    assert (network.classes, network.in_channels, network.image_px) == (10, 3, 224)
    assert found.regularisation.auxiliary_weight == 0
    assert (found.name, found.data.global_batch) == ("net", 7)
    naming = {"genotype": GENOTYPE, "stem": "cifar", "layers": 6}
    sizes = {"channels": 5, "channels_in": 1, "classes": 7, "auxiliary": True}
    state = {e.name: np.zeros(e.shape, "f2") for e in network_entries(**naming, **sizes)}
    path = put(tmp_path / "net.pt", {f"module.{k}": v for k, v in state.items()}, as_legacy)
    network = weightfile.config_of(path, ["network.layers=9"]).network
    assert (network.stem, network.channels, network.layers) == ("cifar", 5, 9)
    assert (network.classes, network.in_channels, network.image_px) == (7, 1, 32)
    assert weightfile.config_of(path).regularisation.auxiliary_weight == 0.4


def test_the_config_of_a_file_can_be_printed(tmp_path, capsys):
    path = put(tmp_path / "net.pt", weights())
    assert darts("evaluate", path, *SETTINGS, "--print") == 0
    found = config.parse_as(trainconfig.TrainConfig, capsys.readouterr().out, "stdout", "net")
    assert (found.network.channels, found.network.image_px) == (2, 32)


def without(name):
    return {key: value for key, value in weights().items() if key != name}


@pytest.mark.parametrize(
    ("state", "words", "texts"),
    [
        ({}, ["genotype="], ['genotype = ""; wanted a published name']),
        (
            {},
            ["network.channels=4"],
            ["stem0.0.weight has the shape (1, 3, 3, 3), wanted (2, 3, 3, 3)", "and ", " more"],
        ),
        ({}, ["network.layers=4"], ["cells.", "is missing", "check genotype"]),
        ({}, ["network.classes=9"], ["network.classes=9, and the pictures of data.kind=sample"]),
        (
            {"classifier.weight": np.zeros((9, 8), "f4")},
            ["network.classes=0"],
            ["classifier.weight has the shape (9, 8), wanted (10, 8)"],
        ),
        ({}, ["network.stem=cifar"], ["stem.0.weight is missing", "stem0.0.weight is not part"]),
        ({}, ["regularisation.auxiliary_weight=1"], ["auxiliary_head.", "is missing"]),
        ({}, ["genotype=DARTS_V2"], ["_ops.", "is missing"]),
        ({}, ["seeds.count=2"], ["seeds.count = 2; wanted 1", "holds one network"]),
        ({"cells.0.extra": np.ones(1)}, [], ["cells.0.extra is not part of this network"]),
        ({"stem1.2.bias": np.ones(3)}, [], ["stem1.2.bias has the shape (3,), wanted (2,)"]),
        ({"stem1.2.bias": np.ones(2, "i8")}, [], ["stem1.2.bias is of int64; wanted floating"]),
        ({"stem1.2.bias": np.array([1, np.inf])}, [], ["stem1.2.bias has numbers that are not"]),
        ({"stem0.0.weight": np.ones(2)}, [], ["stem0.0.weight has the shape (2,); wanted 4 axes"]),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path, capsys, state, words, texts):
    path = put(tmp_path / "net.pt", weights() | state)
    assert darts("evaluate", path, *SETTINGS, *words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(text in err for text in texts), err


@pytest.mark.parametrize("name", ["stem0.0.weight", "stem0.3.weight", "classifier.weight"])
def test_without_the_tensors_that_sizes_follow_from_it_is_no_network(tmp_path, capsys, name):
    assert darts("evaluate", put(tmp_path / "net.pt", without(name)), *SETTINGS) == 2
    assert " is missing; wanted a network of the original's" in capsys.readouterr().err


def test_broken_files_and_places_that_are_neither_are_told(tmp_path, capsys):
    path, cut = put(tmp_path / "net.pt", weights()), tmp_path / "cut.pt"
    cut.write_bytes(path.read_bytes()[:-20])
    for words, text in (
        ([cut], "is broken or cut short"),
        ([tmp_path / "lost.pt"], "does not exist; wanted the folder of a train run, or a file"),
        ([tmp_path], "is no run of train"),
        ([path, "--workdir", "x"], "it takes no --workdir"),
    ):
        assert darts("evaluate", *words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and text in err


def test_pictures_are_standardised_by_published_numbers_and_never_measured():
    plain = sources.Pictures(
        np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int32), ("a",), (), ()
    )
    settings = small.config_of("data.kind=image_folder")
    with pytest.raises(ConfigError, match=r"no published mean and std.*data\.mean="):
        evaluate._standardised(settings, plain)
    given = small.config_of("data.mean=[0.1, 0.2, 0.3]", "data.std=[1, 2, 3]")
    assert evaluate._standardised(given, plain).std == (1, 2, 3)
    imagenet = small.config_of("network.stem=imagenet")
    assert evaluate._standardised(imagenet, plain).mean == sources.IMAGENET_MEAN
    own = small.pictures()
    assert evaluate._standardised(imagenet, own).mean == own.mean


# Whole ways.


@pytest.mark.medium
def test_evaluate_scores_a_file_on_the_test_pictures(tmp_path, told, capsys):
    path = put(tmp_path / "net.pt", {f"module.{k}": v for k, v in weights().items()}, as_legacy)
    found = told(path, *SETTINGS)
    pictures = sources.load(weightfile.config_of(path), "test")
    images = (pictures.images[:100] / 255 - pictures.mean) / pictures.std
    _, apply = pure(lambda key: Network(key, **NAMING, **SIZES))
    run = jax.jit(functools.partial(apply, train=False))
    (logits, _), _ = run(*network_from_torch(weights(), **NAMING), jnp.asarray(images, "f4"))
    logits, labels = np.float64(logits), pictures.labels[:100]
    chances = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    own = logits[np.arange(100), labels][:, None]
    places = (logits > own).sum(1)
    (one,) = found["seeds"]
    assert one["valid_loss"] == pytest.approx(-chances[np.arange(100), labels].mean(), rel=1e-4)
    assert one["valid_error"] == pytest.approx(100 * (places > 0).mean())
    assert one["valid_error_top5"] == pytest.approx(100 * (places > 4).mean())
    assert 0 < one["valid_error_top5"] < one["valid_error"]
    sizes = {k: v.size for k, v in weights().items() if "running" not in k}
    assert found["metrics"]["parameters"] == sum(sizes.values())
    assert found["metrics"]["examples"] == 100 and found["metrics"]["multiply_adds"] > 10**4
    assert darts("evaluate", path, *SETTINGS) == 0
    out = capsys.readouterr().out
    assert f"file: {path}" in out and "valid error top5" in out and "multiply-adds: " in out
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.medium
def test_a_file_becomes_a_run_that_is_scored_trained_and_written_back(tmp_path, told, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, run = put(tmp_path / "net.pt", weights()), tmp_path / "run"
    assert tool(path, run, *SETTINGS, *TRAINING) == 0
    same, imported = told(path, *SETTINGS), told(run)
    assert imported["seeds"] == same["seeds"] and imported["metrics"]["step"] == 0
    assert genotype.load(str(run)) == GENOTYPE
    assert tool("--export", run.relative_to(tmp_path), tmp_path / "back.pt") == 0
    back = torchfile.read_state(tmp_path / "back.pt")
    assert list(back) == list(weights())
    for name, value in weights().items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    assert darts("train", run / "config.toml", "--workdir", run) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["resumed_from"] == [0]
    assert tool("--export", run, tmp_path / "trained.pt", "--seed", 0) == 0
    trained = torchfile.read_state(tmp_path / "trained.pt")
    assert not any(np.array_equal(trained[name], back[name]) for name in back)
    assert told(tmp_path / "trained.pt", *SETTINGS)["seeds"][0]["valid_loss"] == pytest.approx(
        result["seeds"][0]["valid_loss"], rel=1e-6
    )


@pytest.mark.medium
def test_a_run_may_begin_behind_epochs_that_are_done_and_keeps_averages(tmp_path):
    path, run = put(tmp_path / "net.pt", weights()), tmp_path / "run"
    settings = (*SETTINGS, *TRAINING, "schedule.epochs=3", "weights.average=0.5", "seeds.count=2")
    assert tool(path, run, *settings, "--epochs-done", 3) == 0
    assert darts("train", run / "config.toml", "--workdir", run) == 0
    assert json.loads((run / "result.json").read_text())["resumed_from"] == [12]
    assert tool("--export", run, tmp_path / "back.pt", "--seed", 1) == 0
    back = torchfile.read_state(tmp_path / "back.pt")
    assert all(np.array_equal(back[name], value) for name, value in weights().items())


def test_bad_words_to_the_tool_are_told_and_nothing_is_left(tmp_path, capsys):
    path, out = put(tmp_path / "net.pt", weights()), tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for words, text in (
        ([path], "the following arguments are required: OUT|FILE.pt;"),
        ([path, out], 'genotype = ""; wanted'),
        ([path, out, *SETTINGS, "--epochs-done", 601], "wanted 0 to schedule.epochs = 600"),
        ([path, tmp_path / "full", *SETTINGS], "is there already; name a new folder"),
        ([path, out, *SETTINGS, "--seed", 1], "--seed is for --export"),
        ([path, out, *SETTINGS, "network.layers=4"], "cells."),
        (["--export", path, out], "is not there"),
        (["--export", tmp_path, out], "is not there"),
        (["--export", path, out, "seeds.count=1"], "--export takes a run, a file and --seed"),
    ):
        assert tool(*words) == 2, words
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and text in err, err
    assert not out.exists()
