"""The verbs train, evaluate and select, from the command line to what they leave."""

import json

import pytest
import small_training as small

from darts_dist import cli, config, genotype, select, tellings, trainconfig

SIZES = (
    "network.channels=2",
    "network.layers=3",
    "network.stem=imagenet",
    "data.global_batch=16",
    "data.train_limit=64",
    "regularisation.auxiliary_weight=0",
    "evaluation.examples=100",
    "log.every_steps=2",
    "cluster.cpu_devices=0",
)
SEARCH = ("data.train_limit=64", "data.global_batch=16", "network.stem=imagenet")


def darts(*words):
    return cli.main([str(word) for word in words])


def train(folder, *changes):
    value = genotype.to_json(small.GENOTYPE)
    words = (f"genotype={value}", "seeds.count=2", "mesh.data=1", "mesh.seed=1", *SIZES, *changes)
    return darts("train", *words, "--workdir", folder)


def read(folder, name="result.json"):
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    assert train(folder, "schedule.epochs=2") == 0
    return folder


@pytest.mark.medium
def test_a_run_tells_scores_of_every_seed_and_their_mean(run):
    result = read(run)
    lines = [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["seed"]) for line in lines] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for at, one in enumerate(result["seeds"]):
        assert one["status"] == "completed"
        assert genotype.from_dict(one["genotype"]) == small.GENOTYPE
        assert one["valid_loss"] == lines[2 + at]["valid_loss"]
        assert one["valid_error"] == pytest.approx(100 - one["valid_accuracy"])
        assert one["valid_error_top5"] <= one["valid_error"]
    errors = [one["valid_error"] for one in result["seeds"]]
    assert result["metrics"]["valid_error_mean"] == pytest.approx(sum(errors) / 2)
    assert result["metrics"]["scored_on"] == "test"
    assert 0 < result["metrics"]["parameters"] < result["metrics"]["multiply_adds"]
    assert genotype.load(str(run)) == small.GENOTYPE


@pytest.mark.medium
def test_evaluate_finds_the_same_scores_in_the_checkpoint(run, capsys):
    capsys.readouterr()
    assert darts("evaluate", run, "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    for one, trained in zip(found["seeds"], read(run)["seeds"], strict=True):
        assert {key: one[key] for key in one if key != "status"} == {
            key: trained[key] for key in one if key != "status"
        }
    assert found["metrics"]["examples"] == 100


@pytest.mark.medium
def test_a_run_that_is_taken_up_ends_as_one_that_never_stopped(run, tmp_path):
    changes = ("schedule.epochs=2", "checkpoint.every_steps=3")
    assert train(tmp_path / "a", *changes) == 0
    assert read(tmp_path / "a")["state_digest"] == read(run)["state_digest"]
    (tmp_path / "a" / "result.json").unlink()
    assert train(tmp_path / "a", *changes) == 0
    again = read(tmp_path / "a")
    assert again["resumed_from"] and again["state_digest"] == read(run)["state_digest"]


@pytest.mark.medium
def test_select_ranks_the_cells_of_a_search_and_keeps_the_best(tmp_path, capsys):
    space = config.load(None).space
    other = genotype.CnnGenotype(small.GENOTYPE.reduce, (2,), small.GENOTYPE.normal, (2,))
    seeds = [
        {"seed": 3, "status": "completed", "genotype": genotype.to_dict(small.GENOTYPE)},
        {"seed": 4, "status": "completed", "genotype": genotype.to_dict(other)},
        {"seed": 5, "status": "diverged", "genotype": genotype.to_dict(other)},
    ]
    (tmp_path / "config.toml").write_text(config.dump(config.load(None, SEARCH)))
    (tmp_path / "result.json").write_text(json.dumps({"seeds": seeds}))
    words = ("schedule.epochs=1", *SIZES)
    assert darts("select", tmp_path, *words) == 0
    table = capsys.readouterr().out
    found = read(tmp_path, "selection.json")
    cells = {one["cell"]: one for one in found["cells"]}
    assert set(cells) == {"seed-3", "seed-4", "random-0"}
    assert all(name in table for name in cells)
    assert {name for name, _ in genotype.from_dict(cells["random-0"]["genotype"]).normal} <= set(
        space.operations
    ) - {"none"}
    losses = [one["valid_loss_mean"] for one in found["cells"]]
    assert losses == sorted(losses)
    best = min(("seed-3", "seed-4"), key=lambda name: cells[name]["valid_loss_mean"])
    assert found["best_seed"] == cells[best]["seed"]
    assert genotype.to_dict(genotype.load(str(tmp_path))) == cells[best]["genotype"]
    for name in cells:
        own = read(tmp_path / "select" / name)
        assert own["metrics"]["scored_on"] == "held_out"
        for key in ("valid_loss_mean", "parameters", "multiply_adds"):
            assert own["metrics"][key] == cells[name][key]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], 'genotype = ""; wanted a published name'),
        (["train", "genotype=DARTS_V3"], "neither a published name nor an existing file"),
        (["train", "genotype=DARTS_V2", "weights.average=1"], "weights.average = 1; wanted"),
        (["train", "genotype=DARTS_V2", "data.train_fraction=0"], "data.train_fraction = 0"),
        (["train", "genotype=DARTS_V2", "network.image_px=31"], "wanted an even number"),
        (["evaluate"], "no run; name its folder"),
        (["evaluate", "nowhere"], "nowhere does not exist"),
        (["evaluate", "nowhere", "--workdir", "x"], "nowhere does not exist"),
        (["select", "nowhere"], "nowhere is no search run"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and message in told


def test_debug_leaves_the_seeds_and_the_schedule_of_a_run_that_is_scored(tmp_path, capsys):
    knobs = ["genotype=DARTS_V2", "seeds.count=2", "schedule.epochs=7"]
    (tmp_path / "config.toml").write_text(config.dump(trainconfig.load(None, knobs)))
    assert darts("evaluate", tmp_path, "--debug", "--print") == 0
    shown = config.parse_as(trainconfig.TRAININGS, capsys.readouterr().out, "shown", "")
    before = trainconfig.of_run(str(tmp_path))
    assert (shown.seeds, shown.schedule) == (before.seeds, before.schedule)
    assert (shown.mesh.seed, shown.mesh.data, shown.debug.nans) == (1, 1, True)


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([3], "the row of a seed is 3; wanted an object"),
        ([{"seed": 0}], "status of a seed is nothing; wanted a text"),
        ([{"seed": "a", "status": "completed"}], 'seed of a seed is "a"; wanted a number'),
        ([{"seed": 0, "status": "completed", "genotype": 7}], "genotype of a seed is 7; wanted an"),
        ([{"seed": 0, "status": "completed"}], "seed-0: a genotype is an object with named cells"),
        ([{"seed": 0, "status": "completed", "genotype": {}}], "seed-0: genotype lacks normal"),
    ],
)
def test_a_result_with_damaged_rows_is_bad_input_that_names_the_file(seeds, said, tmp_path, capsys):
    (tmp_path / "config.toml").write_text(config.dump(config.load(None, SEARCH)))
    (tmp_path / "result.json").write_text(json.dumps({"seeds": seeds}))
    assert darts("select", tmp_path) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path}/result.json is damaged: {said}" in told and told.count("\n") == 1


def test_select_says_what_a_run_of_train_is_for(tmp_path, capsys):
    (tmp_path / "config.toml").write_text(config.dump(trainconfig.load(None)))
    assert darts("select", tmp_path) == 2
    said = f"{tmp_path} is no search run: it is one of train; evaluate scores it\n"
    assert capsys.readouterr().err.endswith(said)
    (tmp_path / "config.toml").write_text("[network\n")
    assert darts("select", tmp_path) == 2
    assert f"{tmp_path}/config.toml is not TOML" in capsys.readouterr().err


def test_trainings_of_select_with_other_knobs_are_to_be_removed(tmp_path, capsys):
    value = genotype.to_dict(small.GENOTYPE)
    seeds = [{"seed": 3, "status": "completed", "genotype": value}]
    (tmp_path / "config.toml").write_text(config.dump(config.load(None, SEARCH)))
    (tmp_path / "result.json").write_text(json.dumps({"seeds": seeds}))
    words = ["selection.groups=1", "selection.random_cells=0"]
    chosen = trainconfig.of_search(str(tmp_path), [*words, "network.channels=4"])
    own = tmp_path / "select" / "seed-3"
    own.mkdir(parents=True)
    before = trainconfig.one_training(chosen, "seed-3", json.dumps(value))
    (own / "config.toml").write_text(config.dump(before))
    assert darts("select", tmp_path, *words, "network.channels=2") == 2
    said = f"(was 4, now 2); give the old values or remove {own}\n"
    assert capsys.readouterr().err.endswith(said)


def test_a_cell_whose_loss_is_not_finite_is_ranked_last_and_never_wins(
    tmp_path, capsys, monkeypatch
):
    value = genotype.to_dict(small.GENOTYPE)
    rows = [{"seed": seed, "status": "completed", "genotype": value} for seed in (3, 4)]
    (tmp_path / "config.toml").write_text(config.dump(config.load(None, SEARCH)))
    (tmp_path / "result.json").write_text(json.dumps({"seeds": rows}))
    losses = {"seed-3": float("nan"), "seed-4": 2.0}

    def trained(own, folder, debug):
        lines = [{"valid_loss": losses[own.name], "valid_error": 50.0}]
        scores = tellings.over_seeds(tellings.scored(lines), tuple(lines[0]))
        return {**scores, "parameters": 5, "multiply_adds": 6}

    monkeypatch.setattr(select, "in_turn", trained)
    words = ("selection.groups=1", "selection.random_cells=0", "cluster.cpu_devices=0")
    assert darts("select", tmp_path, *words) == 0
    assert "not finite" in capsys.readouterr().out
    found = json.loads((tmp_path / "selection.json").read_text(), parse_constant=pytest.fail)
    assert [one["cell"] for one in found["cells"]] == ["seed-4", "seed-3"]
    assert found["best_seed"] == 4
    losses["seed-4"] = float("inf")
    assert darts("select", tmp_path, *words) == 3
    assert "no cell of" in capsys.readouterr().err


def test_select_wants_a_finished_search(tmp_path, capsys):
    (tmp_path / "config.toml").write_text(config.dump(config.load(None)))
    assert darts("select", tmp_path) == 2
    assert "finish its search first" in capsys.readouterr().err
