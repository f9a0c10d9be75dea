"""The verb plan, in a process of its own: it chooses the devices that jax starts with."""

import functools
import importlib.util
import json

import pytest
from small_plan import SMALL, plan

from darts_dist import machines, planconfig, plandata, trainconfig
from darts_dist.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    (folder / "small.toml").write_text(SMALL)
    return folder


@functools.cache
def planned(folder, devices, preset, batch):
    words = (f"topology=cpu:{devices}", f"method.preset={preset}", f"data.global_batch={batch}")
    return plan(folder, "small.toml", "seeds.count=2", *words, "--workdir", f"{preset}-{devices}")


@pytest.mark.medium
@pytest.mark.parametrize(("preset", "reductions"), [("darts_first", 2), ("darts_second", 4)])
def test_on_64_devices_a_gradient_is_one_all_reduce_along_data(folder, preset, reductions):
    found = planned(folder, 64, preset, 128)
    assert found["mesh"] == {"seed": 2, "data": 32} and found["local_batch"] == 4
    assert found["step"]["collectives"] == reductions
    assert {(one["kind"], *one["axes"]) for one in found["collectives"]} == {("all-reduce", "data")}
    assert {one["group"] for one in found["collectives"]} == {32}


@pytest.mark.medium
def test_a_device_of_64_runs_and_holds_what_one_of_8_does_at_the_same_local_batch(folder):
    few, many = (planned(folder, n, "darts_first", 2 * n) for n in (8, 64))
    assert few["local_batch"] == many["local_batch"]
    for one, other in zip(few["programs"], many["programs"], strict=True):
        for key in ("program", "uses", "kernels", "flops", "temp_bytes", "output_bytes"):
            assert one[key] == other[key], (one["program"], key)
    assert few["memory"]["peak"] == many["memory"]["peak"]


@pytest.mark.medium
def test_what_is_told_adds_up_and_is_written(folder):
    found = planned(folder, 64, "darts_first", 128)
    assert found == json.loads((folder / "darts_first-64" / "plan.json").read_text()) | {
        "workdir": "darts_first-64"
    }
    step, memory, run = found["step"], found["memory"], found["run"]
    for key in ("kernels", "flops", "bytes", "estimate_s"):
        assert step[key] == sum(row["uses"] * row[key] for row in found["programs"]) > 0
    assert memory["peak"] == sum(memory[key] for key in ("state", "batch", "results", "temp"))
    assert memory["fits"] and min(memory.values()) >= 0
    assert run["steps"] == 50 * (4_000 // 2 // 128) and run["evaluated_batches"] == 50 * 16
    assert run["device_hours"] == pytest.approx(64 * run["hours"])
    assert run["hours"] * 3600 > run["steps"] * step["estimate_s"]


@pytest.mark.medium
def test_seeds_that_take_turns_take_their_times(folder):
    words = ("method.preset=darts_first", "data.global_batch=4", "topology=cpu:2", "mesh.seed=1")
    one, three = (plan(folder, "small.toml", *words, f"seeds.count={n}") for n in (1, 3))
    assert (one["blocks"], three["blocks"]) == (1, 3)
    assert three["step"]["kernels"] == 3 * one["step"]["kernels"]
    assert three["memory"]["state"] == 3 * one["memory"]["state"]


@pytest.mark.medium
def test_a_training_is_planned_by_its_own_config(folder):
    words = ("network.channels=2", "network.layers=1", "data.global_batch=4", "topology=cpu:2")
    words += ("network.stem=imagenet", "plan.global_batches=[4,8]")
    found = plan(folder, "genotype=DARTS_V2", *words)
    uses = {row["program"]: row["uses"] for row in found["programs"]}
    assert uses == {"prepare": 1, "gradient_params": 1, "weight_step": 1, "evaluate": 0}
    assert found["step"]["collectives"] == 1 and found["run"]["evaluated_batches"] > 0
    assert found["by_batch"]["largest"] > 1_000


@pytest.mark.medium
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="the extra tpu is not installed")
def test_a_tpu_that_is_not_there_is_compiled_for(folder):
    words = ("method.preset=darts_first", "data.global_batch=8", "topology=v5e:2x2")
    found = plan(folder, "small.toml", "seeds.count=2", *words)
    assert found["mesh"] == {"seed": 2, "data": 2} and found["memory"]["device"] == 16e9
    assert found["step"]["collectives"] == 2
    assert {(one["kind"], *one["axes"]) for one in found["collectives"]} == {("all-reduce", "data")}
    assert all(row["flops_from"] == "compiler" for row in found["programs"])


def test_keys_that_only_trainings_have_tell_them_from_searches(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[regularisation]\ndrop_path = 0.1\n")
    topology = ("topology=cpu:1",)
    assert isinstance(planconfig.load(str(file), topology), planconfig.PlanTrain)
    assert isinstance(planconfig.load(None, topology), planconfig.PlanSearch)
    trained = planconfig.load(None, (*topology, "genotype=DARTS_V2"))
    assert isinstance(trained, trainconfig.TrainConfig)


def test_folders_of_pictures_need_their_sizes():
    words = ("topology=cpu:1", "data.kind=image_folder")
    with pytest.raises(InputError, match=r"plan.examples=N network.classes=K"):
        planconfig.load(None, words)
    made = planconfig.load(
        None,
        (*words, "plan.examples=1281167", "network.classes=1000", "schedule.steps_per_epoch=0"),
    )
    assert plandata.count(made).epoch_steps == 1281167 // 2 // made.data.global_batch


def test_no_peak_is_invented_for_a_format_that_a_machine_has_not():
    assert "float64" not in machines.PUBLISHED["v5e"].flops_per_s
