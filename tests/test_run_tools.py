"""The tools that read a run's folder: genotypes of any epoch, the state of its checkpoints."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from darts_dist import checkpoint, cluster, config, genotype, metrics

ROOT = pathlib.Path(__file__).parent.parent


def tool(name, *arguments):
    """Returns (exit code, stdout, stderr) of a tool."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with the alphas of two epochs and seeds 3 and 4, and three checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    settings = config.load(None, ["seeds.count=2", "seeds.first=3", "network.nodes=2"])
    (folder / "config.toml").write_text(config.dump(settings))
    record = metrics.Recorder(folder, main=True, seeds=(3, 4), total_steps=8)
    for epoch in (1, 2):
        alphas = np.zeros((2, 5, len(settings.space.operations)), np.float32)
        alphas[1, :, 3 + epoch] = 1  # seed 4: sep_conv_3x3, then sep_conv_5x5
        record.alphas(epoch, {"normal": alphas, "reduce": alphas})
    sharding = NamedSharding(cluster.make_mesh(2, 2, 1), PartitionSpec("seed"))
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints", keep=3)
    values = np.random.default_rng(0).normal(size=(2, 700)).astype(np.float32)
    for step in (9, 10, 11):
        checkpoints.save(step, {"kernel": jax.device_put(values, sharding)}, {})
    checkpoints.close()
    return folder


def first_operations(text):
    return [json.loads(line)["normal"][0][0] for line in text.splitlines()]


def test_every_seed_of_the_last_epoch_is_derived(run):
    code, out, err = tool("derive_genotype.py", run)
    assert (code, err) == (0, "")
    assert first_operations(out) == ["max_pool_3x3", "sep_conv_5x5"]
    assert len(json.loads(out.splitlines()[0])["normal"]) == 4


def test_one_seed_of_one_epoch_is_derived_in_every_form(run):
    arguments = (run, "--epoch", 1, "--seed", 4)
    _, out, _ = tool("derive_genotype.py", *arguments)
    assert first_operations(out) == ["sep_conv_3x3"]
    value = genotype.load(out)
    _, text, _ = tool("derive_genotype.py", *arguments, "--format", "text")
    _, python, _ = tool("derive_genotype.py", *arguments, "--format", "python", "--rule", "top2")
    assert genotype.load(text) == genotype.load(python) == value
    assert python.startswith("SEED_4 = Genotype(")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epoch", "7"], "--epoch 7 is not in this run; there are: 1, 2"),
        (["--seed", "0"], "--seed 0 is not in this run; there are: 3, 4"),
        (["--rule", "best"], "--rule best is unknown; there are: top2"),
        (["--format", "yaml"], "invalid choice"),
        (["--epoch", "one"], "invalid int value"),
    ],
)
def test_what_a_run_has_not_got_is_bad_input(run, arguments, said):
    code, out, err = tool("derive_genotype.py", run, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["derive_genotype.py", "inspect_checkpoint.py"])
def test_a_run_that_is_not_there_is_bad_input(name, tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        code, out, err = tool(name, folder)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert tool(name, "--help")[0] == 0


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("inspect_checkpoint.py", (), ()), ("import_torch.py", ("--export",), ("net.pt",))],
)
def test_a_file_in_the_place_of_checkpoints_is_bad_input(name, before, after, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    code, out, err = tool(name, *before, tmp_path, *after)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"{tmp_path}/checkpoints is a file; wanted the folder" in err


def test_checkpoints_are_shown_with_their_state(run):
    code, out, err = tool("inspect_checkpoint.py", run, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["checkpoints"]
    assert [(entry["name"], entry["state"]) for entry in found] == [
        *(("9", "verified"), ("10", "verified"), ("11", "verified"))
    ]
    assert found[0]["leaves"] == [{"name": "kernel", "dtype": "float32", "shape": [2, 700]}]
    _, table, _ = tool("inspect_checkpoint.py", run)
    assert "kernel" in table
    assert "verified" in table


def test_a_broken_and_an_unfinished_checkpoint_are_told_apart(run):
    folder = run / "checkpoints"
    (folder / "12").mkdir()
    path = max((folder / "11" / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    code, out, err = tool("inspect_checkpoint.py", run, "--json")
    path.write_bytes(content)
    (folder / "12").rmdir()
    states = [entry["state"] for entry in json.loads(out)["checkpoints"]]
    assert states == ["verified", "verified", "broken", "unfinished"]
    assert code == 2
    assert "newest checkpoint" in err
