"""Plans at several batches and numbers of seeds: what is not compiled, beside what is."""

import dataclasses
import functools
import xml.etree.ElementTree

import jax
import pytest
from small_plan import SMALL, plan

from darts_dist import machines, planconfig, planning, plansweep
from darts_dist.errors import ConfigError
from darts_dist.planning import Compiled

WORDS = ("method.preset=darts_first", "topology=cpu:2")
FOUR_GB = dataclasses.replace(machines.PUBLISHED["v5e"], memory_bytes=4e9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    (folder / "small.toml").write_text(SMALL)
    return folder


@pytest.mark.medium
def test_fitted_and_derived_points_are_what_compiling_them_gives(folder):
    sweeps = ("plan.global_batches=[4,8,16]", "plan.seeds=[1,2,6]")
    swept = plan(folder, "small.toml", *WORDS, "data.global_batch=4", *sweeps, "--workdir", "swept")
    batches, seeds = swept["by_batch"]["points"], swept["by_seeds"]["points"]
    assert [one["source"] for one in batches] == ["compiled", "fitted", "compiled"]
    assert [one["source"] for one in seeds] == ["compiled", "compiled", "derived"]
    assert [(one["mesh"]["seed"], one["blocks"]) for one in seeds] == [(1, 1), (2, 1), (2, 3)]
    batch = plan(folder, "small.toml", *WORDS, "data.global_batch=8")
    assert batches[1]["kernels"] == batch["step"]["kernels"]
    for line, exact in (
        (batches[1]["memory"]["peak"], batch["memory"]["peak"]),
        (batches[1]["flops"], batch["step"]["flops"]),
        (batches[1]["bytes"], batch["step"]["bytes"]),
    ):
        assert line == pytest.approx(exact, rel=0.03)
    many = plan(folder, "small.toml", *WORDS, "data.global_batch=4", "seeds.count=6")
    for key in ("kernels", "flops", "bytes"):
        assert seeds[2][key] == many["step"][key]
    assert seeds[2]["memory"] == many["memory"]
    drawn = xml.etree.ElementTree.parse(folder / "swept" / "plan.svg")
    titles = [one.text or "" for one in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert sum("fitted" in one for one in titles) == sum("derived" in one for one in titles) == 2


def step_of(config, slope=1e6, kernels=10):
    """A step that needs so many bytes an example, and 1 GB."""
    local = config.data.global_batch // 8
    row = {
        "runs": {0: 1},
        "flops": 1e9 * local,
        "flops_from": "compiler",
        "bytes": 1e6,
        "bytes_from": "compiler",
        "temp_bytes": round(slope * local),
        "argument_bytes": 0,
        "output_bytes": 0,
        "kept_bytes": 0,
        "collectives": 0,
        "collective_s": 0.0,
        "unknown_loops": 0,
        "kernels": kernels,
        "compiled": kernels,
    }
    names = ("prepare", "gradient_params", "evaluate")
    rows = [{"program": name, **row} for name in names]
    return Compiled({"seed": 1, "data": 8}, rows, [], 10**9, 0, {})


def sweeps(*words, compiling=step_of, machine=FOUR_GB):
    config = planconfig.load(None, ("topology=cpu:8", "seeds.count=1", "mesh.seed=1", *words))
    lay_out = functools.partial(planning.lay_out, devices=jax.devices("cpu"))
    return plansweep.Sweeps(config, machine, 8, lay_out, compiling)


def test_the_largest_batch_is_the_last_that_fits_on_the_line():
    words = ("data.global_batch=64", "plan.global_batches=[64,128,256]")
    found = sweeps(*words).by_batch()
    assert found["largest"] == 8 * 3_000 and found["from"] == [64, 256] and not found["notes"]
    same = functools.partial(step_of, slope=0)
    assert sweeps(*words, compiling=same).by_batch()["largest"] is None
    tiny = dataclasses.replace(FOUR_GB, memory_bytes=1e9)
    assert sweeps(*words, machine=tiny).by_batch()["largest"] == 0


def test_only_the_ends_and_the_own_batch_are_compiled():
    compiled = []

    def compiling(config):
        compiled.append(config.data.global_batch)
        return step_of(config)

    words = ("data.global_batch=128", "plan.global_batches=[64,256,512]")
    found = sweeps(*words, compiling=compiling).by_batch()
    assert sorted(compiled) == [64, 128, 512]
    assert [one["source"] == "fitted" for one in found["points"]] == [False, False, True, False]
    (note,) = found["notes"]
    assert "+0.0 % off in memory and +0.0 % in time" in note
    times = [one["estimate_s"] for one in found["points"]]
    assert times == sorted(times) and found["points"][0]["run"]["examples_per_s"] > 0


def test_kernels_that_differ_at_the_ends_are_told():
    def compiling(config):
        return step_of(config, kernels=10 + config.data.global_batch)

    words = ("data.global_batch=64", "plan.global_batches=[64,128]")
    (note,) = sweeps(*words, compiling=compiling).by_batch()["notes"]
    assert "148 kernels at batch 64 and 276 at 128" in note


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("plan.global_batches=[64,100]",), r"plan.global_batches: data.global_batch=100 does not"),
        (("plan.global_batches=[64,4096]",), r"plan.global_batches: .* more than the 2000"),
        (("plan.seeds=[1,2]", "mesh.seed=2", "seeds.count=2"), r"plan.seeds: seeds.count = 1;"),
    ],
)
def test_a_point_that_cannot_be_is_told_before_anything_is_compiled(words, problem):
    def never(config):
        raise AssertionError(config)

    with pytest.raises(ConfigError, match=problem):
        sweeps(*words, compiling=never)


@pytest.mark.parametrize("key", ["global_batches", "seeds"])
@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ("[64]", "at least two different"),
        ("[8,8]", "two different"),
        ("[0,8]", "whole number >= 1"),
    ],
)
def test_a_sweep_wants_two_numbers(key, values, wanted):
    with pytest.raises(ConfigError, match=rf"plan.{key} = .*; wanted .*{wanted}"):
        planconfig.load(None, ("topology=cpu:8", f"plan.{key}={values}"))
