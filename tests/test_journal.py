"""What a search tells: pages of each seed, warnings of collapse, pictures at their times."""

import io
import os
import types

import numpy as np
import pytest
from board import Board
from PIL import Image, ImageColor

from darts_dist import config, genotype, pages, trainjournal
from darts_dist.events import ABOUT, Events
from darts_dist.journal import SearchJournal, standings
from darts_dist.metrics import Recorder
from darts_dist.picture import heatmap
from darts_dist.spaces.derive import RULES, edges_of, softmax
from darts_dist.trainconfig import TrainConfig
from darts_dist.trainjournal import TrainJournal

SKIP = config.Space().operations.index("skip_connect")
SEEDS = [5, 6]


def task_of(settings):
    """All that is asked of a task."""
    sizes = {"unit": "pictures", "step_examples": 64}
    return types.SimpleNamespace(config=settings, seeds=SEEDS, **sizes)


def journal(folder, *changes, main=True):
    settings = config.parse("", "a test", overrides=("network.nodes=4", *changes))
    task = task_of(settings)
    recorder = Recorder(folder, main=main, seeds=SEEDS, total_steps=99)
    return SearchJournal(task, recorder, Events(folder, on=main and settings.log.tensorboard))


def seen(skips=(0, 0), alive=(True, True), edges=14, operations=8):
    """What a search fetches after an epoch; each seed's normal cell keeps so many skips."""
    alphas = {cell: np.zeros((2, edges, operations)) for cell in ("normal", "reduce")}
    for at, count in enumerate(skips):
        kept = [row for row, (state, _) in enumerate(edges_of(edges, "cnn")) if state < 2]
        alphas["normal"][at, kept, SKIP + 1] = 1  # the edges from the inputs are the strongest
        alphas["normal"][at, kept[:count], SKIP] = 2
    sums = {"loss": np.array([3.0, 6.0]), "right": np.array([1.0, 2.0]), "count": np.array([4, 4])}
    return {"alphas": alphas, "alive": np.array(alive), "totals": sums, "valid": sums}


def step(seeds=2):
    names = ("loss", "accuracy", "grad_norm", "valid_loss", "valid_accuracy", "alpha_grad_norm")
    return {name: np.arange(1.0, 1 + seeds) for name in (*names, "alive")}


def shown(folder):
    return Board(folder / "tensorboard")


def test_every_tag_is_explained_and_nothing_else_is(tmp_path):
    told = journal(tmp_path)
    told.begin()
    told.step(4, step(), 0.5, 0.025)
    told.epoch(0, 8, seen(skips=(4, 4)))
    told.events.close()
    board = shown(tmp_path)
    assert board.runs == ["seed-5", "seed-6"]
    tags = {tag for kind in ("scalars", "images", "text") for tag in board.tags("seed-5", kind)}
    others = {"accuracy/valid_top5"}  # of training; and of texts:
    others |= {tag for tag in ABOUT if tag.startswith("perplexity/") or "recurrent" in tag}
    assert tags == set(ABOUT) - others
    assert all(board.about("seed-5", tag) == ABOUT[tag] for tag in tags)
    assert board.values("seed-6", "loss/train") == [(4, 2.0)]
    assert board.values("seed-6", "speed/examples_per_s") == [(4, 64 * 2 / 0.5)]
    assert board.values("seed-6", "loss/valid") == [(8, 1.5)]
    assert board.values("seed-6", "cells/skip_connections_normal") == [(8, 4)]
    assert set(pages.METRICS["cnn"]) < tags


def test_a_search_of_recurrent_cells_tells_perplexities_and_draws_its_cell(tmp_path):
    told = journal(tmp_path, "space.kind=rnn", "network.nodes=2")
    told.begin()
    values = step()
    told.step(4, {name: values[name] for name in ("loss", "grad_norm", "alive")}, 0.5, 20.0)
    sums = {"loss": np.array([3.0, 6.0]), "count": np.array([4, 4])}
    alphas = {"recurrent": np.arange(30.0).reshape(2, 3, 5)}
    told.epoch(0, 8, {"alphas": alphas, "alive": np.ones(2, bool), "totals": sums, "valid": sums})
    told.events.close()
    board = shown(tmp_path)
    perplexity = np.float32(np.exp(1.5))
    assert board.values("seed-6", "perplexity/valid") == [(8, pytest.approx(perplexity))]
    assert board.values("seed-6", "loss/train") == [(4, 2.0)]
    assert {"cells/recurrent", "alphas/weights_recurrent"} <= set(board.tags("seed-6", "images"))
    (_, line) = told.recorder.lines
    assert line["genotype"]["recurrent"] == [["identity", 0], ["identity", 0]]
    assert line["valid_perplexity"] == np.exp(1.5) and "skip_connections" not in line
    _, metrics, _ = board.sessions()["seed-6"]
    assert metrics.keys() == set(pages.METRICS["rnn"])


def test_maps_and_cells_are_pictures_that_can_be_opened(tmp_path):
    told = journal(tmp_path)
    told.epoch(0, 8, seen(alive=(True, False)))
    told.events.close()
    board = shown(tmp_path)
    found = board.everything("seed-5", "images")
    assert sorted(found) == [
        "alphas/weights_normal",
        "alphas/weights_reduce",
        "cells/normal",
        "cells/reduce",
    ]
    for tag, ((step, png),) in found.items():
        width, _ = Image.open(io.BytesIO(png)).size
        assert step == 8
        assert (width == heatmap.WIDTH_PX) == tag.startswith("alphas/")
    assert board.tags("seed-6", "images") == []  # this seed was stopped: nothing moves any more


@pytest.mark.parametrize(
    ("every", "wanted"), [(0, []), (1, [1, 3, 5, 7, 8]), (2, [3, 7, 8]), (4, [7, 8])]
)
def test_pictures_come_every_so_many_evaluations_and_at_the_end(tmp_path, every, wanted):
    knobs = (f"log.pictures_every={every}", "evaluation.every_epochs=2", "schedule.epochs=9")
    told = journal(tmp_path, *knobs)
    for epoch in (1, 3, 5, 7, 8):  # those that the search evaluates
        told.epoch(epoch, epoch, seen())
    told.events.close()
    board = shown(tmp_path)
    tags = board.tags("seed-5", "images")
    assert [step for step, _ in board.values("seed-5", tags[0])] == wanted if wanted else not tags
    assert len(board.values("seed-5", "loss/valid")) == 5


def framed(png):
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)
    return (abs(image - ImageColor.getrgb(heatmap.FRAME)).max(-1) < 12).sum()


def test_a_map_frames_each_operation_of_the_derived_cell():
    settings = config.parse("", "a test")
    operations, rng = settings.space.operations, np.random.default_rng(0)
    weights = {cell: softmax(rng.normal(size=(14, 8))) for cell in ("normal", "reduce")}
    cells = RULES["top2"](weights, operations)
    found = pages.pictures(weights, cells, settings)
    edges, values = edges_of(14, "cnn"), weights["normal"].tolist()
    one = framed(heatmap.png(values, edges, operations, {(0, 2): "none"}, "normal cell"))
    for cell in weights:
        assert framed(found[f"alphas/weights_{cell}"]) == 8 * one > 0


def test_a_collapse_is_said_once_a_seed_and_again_after_a_resume(tmp_path, capsys, monkeypatch):
    for start, epochs in ((0, (0, 1, 2)), (3, (3, 4))):
        monkeypatch.setattr(os, "getpid", lambda start=start: 99999990 + start)  # two processes
        told = journal(tmp_path)
        told.events.drop_after(start)
        told.begin()
        for epoch in epochs:
            told.epoch(epoch, epoch + 1, seen(skips=(4, 3) if epoch else (3, 3)))
        told.events.close()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert [line.split(":")[1] for line in said] == [" seed 5", " seed 5"]
    assert "4 of the 8 operations" in said[0]
    assert [line.split("after epoch ")[1][0] for line in said] == ["1", "3"]
    board = shown(tmp_path)
    texts = board.values("seed-5", "warnings/skip_connections")
    assert [step for step, _ in texts] == [2, 4]
    assert said[0].endswith(texts[0][1].replace("`", ""))
    assert board.tags("seed-6", "text") == []


def test_alphas_that_rest_are_no_collapse(tmp_path):
    told = journal(tmp_path, "method.warmup_epochs=1")
    told.epoch(0, 1, seen(skips=(8, 8)))
    assert shown(tmp_path).tags("seed-5", "text") == []
    told.epoch(1, 2, seen(skips=(8, 8)))
    told.events.close()
    assert shown(tmp_path).tags("seed-5", "text") == ["warnings/skip_connections"]


@pytest.mark.parametrize("setting", [{"main": False}, {"changes": ["log.tensorboard=false"]}])
def test_without_pages_nothing_is_written_or_drawn(tmp_path, monkeypatch, setting):
    monkeypatch.setattr(pages, "pictures", None)
    told = journal(tmp_path, *setting.get("changes", ()), main=setting.get("main", True))
    told.begin()
    told.step(4, step(), 0.5, 0.025)
    told.epoch(0, 8, seen())
    told.events.end(8, 5, completed=True)
    told.events.close()
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("name", ["DARTS_V1", "DARTS_V2"])
def test_published_cells_of_darts_are_no_collapse(name):
    cells = genotype.load(name, "cnn")
    assert isinstance(cells, genotype.CnnGenotype)
    assert pages.skips(cells.normal) == {"DARTS_V1": 3, "DARTS_V2": 2}[name]
    assert pages.collapse(cells, 49) == {}


@pytest.mark.parametrize(("nodes", "limit"), [(1, 2), (2, 2), (3, 3), (4, 4), (8, 8)])
def test_a_cell_collapses_from_half_of_its_operations_on(nodes, limit):
    def cell(count):
        names = ["skip_connect"] * count + ["sep_conv_3x3"] * (2 * nodes - count)
        entries = [[name, at % 2] for at, name in enumerate(names)]
        concat = list(range(2, 2 + nodes))
        parts = {"normal": entries, "reduce": entries}
        return genotype.from_dict({**parts, "normal_concat": concat, "reduce_concat": concat})

    warned = [count for count in range(2 * nodes + 1) if pages.collapse(cell(count), 0)]
    assert warned == list(range(limit, 2 * nodes + 1))


def test_entropy_is_a_share_of_the_most_that_there_can_be():
    assert pages.entropy(np.full((5, 8), 1 / 8)) == pytest.approx(1)
    assert pages.entropy(np.eye(5)) == 0
    assert pages.entropy(np.ones((5, 1))) == 0
    halves = softmax(np.array([[0.0, 0.0, -np.inf, -np.inf]]))
    assert pages.entropy(halves) == pytest.approx(0.5)


def test_the_hparams_tab_compares_runs_by_what_a_resume_cannot_change(tmp_path):
    told = journal(tmp_path, "data.kind=cifar10", "weights.learning_rate=0.5")
    told.begin()
    told.epoch(0, 8, seen())
    told.events.end(8, 5, completed=True)
    told.events.close()
    knobs, metrics, status = shown(tmp_path).sessions()["seed-5"]
    assert knobs.keys() == {"seed", "method.hypergradient", *pages.HPARAMS["cnn"]}
    assert (knobs["seed"], knobs["data.kind"], knobs["weights.learning_rate"]) == (
        5,
        "cifar10",
        0.5,
    )
    assert knobs["data.flip"] is True
    assert knobs["method.hypergradient"] == "exact"
    assert metrics.keys() == set(pages.METRICS["cnn"])
    assert (metrics["loss/valid"], metrics["accuracy/valid"], status) == (
        0.75,
        25,
        "STATUS_SUCCESS",
    )
    knobs = [key for keys in pages.HPARAMS.values() for key in keys]
    assert not [key for key in knobs if key.startswith(config.FREE_ON_RESUME)]


def test_training_shows_its_numbers_by_the_same_tags(tmp_path):
    task = task_of(TrainConfig(genotype="DARTS_V2"))
    recorder = Recorder(tmp_path, main=True, seeds=SEEDS, total_steps=99)
    told = TrainJournal(task, recorder, Events(tmp_path, on=True))
    told.begin()
    told.step(4, step(), 0.5, 0.025)
    sums = seen()["valid"]
    scored = {**sums, "among": np.array([3.0, 3.0])}
    told.epoch(0, 8, {"alive": np.ones(2, bool), "totals": sums, "valid": scored})
    told.events.close()
    board = shown(tmp_path)
    assert board.values("seed-6", "loss/train") == [(4, 2.0)]
    assert board.values("seed-6", "accuracy/valid_top5") == [(8, 75)]
    knobs, metrics, _ = board.sessions()["seed-6"]
    assert (knobs["seed"], knobs["genotype"]) == (6, "DARTS_V2")
    assert metrics.keys() == set(trainjournal.METRICS["cnn"]) <= set(ABOUT)
    knobs = [key for keys in trainjournal.HPARAMS.values() for key in keys]
    assert not [key for key in knobs if key.startswith(config.FREE_ON_RESUME)]


KEYS = ("valid_loss", "valid_perplexity")


def ended(*rows):
    """What stands at the end of a run whose seeds had these losses and perplexities."""
    lines = [
        {"step": 9, "seed": seed, **dict(zip(KEYS, row, strict=True))}
        for seed, row in enumerate(rows)
    ]
    return standings(lines, range(len(rows)), 9, np.ones(len(rows), bool), KEYS)


@pytest.mark.parametrize("bad", [np.inf, np.nan, None])  # None: read back from the file of lines
def test_a_seed_whose_loss_is_not_finite_never_wins_and_counts_in_no_mean(bad):
    assert ended((bad, bad), (2.0, 7.0), (1.0, 3.0)) == {
        "seeds": [
            {"seed": 0, "status": "completed", "valid_loss": bad, "valid_perplexity": bad},
            {"seed": 1, "status": "completed", "valid_loss": 2.0, "valid_perplexity": 7.0},
            {"seed": 2, "status": "completed", "valid_loss": 1.0, "valid_perplexity": 3.0},
        ],
        "best_seed": 2,
        "metrics": {
            "valid_loss": 1.0,
            "valid_perplexity": 3.0,
            "valid_loss_mean": 1.5,
            "valid_loss_deviation": pytest.approx(0.5**0.5),
            "valid_perplexity_mean": 5.0,
            "valid_perplexity_deviation": pytest.approx(8**0.5),
        },
    }


def test_without_a_finite_loss_no_seed_is_the_best():
    found = ended((np.nan, 1.0), (np.inf, 1.0))
    assert found["best_seed"] is None
    assert found["metrics"]["valid_loss"] is found["metrics"]["valid_perplexity_mean"] is None


def test_an_infinite_perplexity_counts_in_no_mean_of_perplexities():
    found = ended((720.0, np.inf), (1.0, 3.0))
    assert found["best_seed"] == 1
    assert found["metrics"]["valid_loss_mean"] == 360.5
    assert found["metrics"]["valid_perplexity_mean"] == 3.0
    assert ended((709.0, 1.5e308), (709.0, 1.5e308))["metrics"]["valid_perplexity_mean"] is None
