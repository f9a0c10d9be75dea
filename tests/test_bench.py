import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import bench as bench_tool
import pytest
import turns

from darts_dist.errors import InputError

BENCH = pathlib.Path(__file__).parent.parent / "tools" / "bench.py"


def bench(*arguments):
    command = [sys.executable, str(BENCH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_input_bench_counts_pictures_a_second_as_json_and_as_a_table():
    found = json.loads(bench("input", "--seconds", "0.01", "--json"))
    for rows in found.values():
        assert all(row["pictures_per_s"] > 0 and row["pictures_per_cpu_s"] > 0 for row in rows)
    table = bench("input", "--seconds", "0.01").splitlines()
    assert table[0].split() == list(found["input"][0])
    assert table[len(found["input"]) + 1].split() == list(found["imagenet"][0])
    assert len(table) == sum(len(rows) + 1 for rows in found.values())


def test_the_input_bench_compares_imagenet_with_the_decoder_alone():
    rows = json.loads(bench("input", "--seconds", "0.01", "--json"))["imagenet"]
    places = [(row["from"], row["threads"]) for row in rows]
    read = [(name, threads) for name in ("files", "ArrayRecord") for threads in (0, 1, 2)]
    assert places == [("Pillow alone", 0), *read]
    assert rows[0]["percent_of_pillow"] == 100


SMALL = """
[space]
operations = ["none", "skip_connect", "sep_conv_3x3"]
[network]
channels = 2
layers = 1
nodes = 1
image_px = 8
[data]
global_batch = 8
[seeds]
count = 4
[method]
preset = "darts_first"
warmup_epochs = 1
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return str(file)


def kernels(*arguments):
    return json.loads(bench("kernels", *arguments, "--json"))


def check_sums(rows):
    for row in rows:
        kinds = [row[kind] for kind in ("fusion", "convolution", "dot", "custom-call", "copy")]
        assert row["kernels"] == sum(kinds) + row["other"] > 0 and row["compiled"] > 0
        assert row["temp_mb"] >= 0 and row["accessed_mb"] >= 0 and row["compile_cpu_s"] >= 0


@pytest.mark.medium
def test_the_kernels_bench_counts_a_pass_of_each_cell(config):
    rows = kernels("--what", "cell", "--config", config)["kernels"]
    assert [row["program"] for row in rows] == ["normal_cell", "reduction_cell"]
    check_sums(rows)
    wider = kernels("--what", "cell", "--config", config, "--batch", "64")["kernels"]
    assert wider[0]["accessed_mb"] > 2 * rows[0]["accessed_mb"]


@pytest.mark.medium
def test_a_pass_of_a_cell_takes_few_kernels_and_no_loops():
    rows = kernels("--what", "cell", "--channels", "4", "--image", "16", "--batch", "3")["kernels"]
    for row, most in zip(rows, (295, 325), strict=True):  # 282 and 311 with jax 0.10.2
        assert row["kernels"] == row["compiled"] <= most, row["program"]


@pytest.mark.medium
def test_the_kernels_bench_counts_the_passes_of_the_network(config):
    rows = kernels("--what", "network", "--config", config)["kernels"]
    assert {row["program"] for row in rows} == {"gradient_both", "product"}
    check_sums(rows)


def test_a_topology_that_is_none_is_bad_input():
    command = [sys.executable, str(BENCH), "kernels", "--topology", "v9:2x2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "topology=v9:2x2" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.medium
def test_the_kernels_bench_weighs_a_steps_programs_by_their_calls(config):
    found = kernels("--what", "step", "--config", config, "--topology", "cpu:2")
    check_sums(found["kernels"])
    rows = {row["program"]: row for row in found["kernels"]}
    calls = {name: row["calls"] for name, row in rows.items()}
    every = ("prepare", "gradient_alphas", "alpha_step", "gradient_params", "weight_step")
    blocks = 2  # 4 seeds in 2 groups of devices
    assert calls == dict.fromkeys(every, blocks) | {"init": 0, "evaluate": 0}
    (whole,) = found["step"]
    assert whole["kernels_of_a_step"] == blocks * sum(rows[name]["kernels"] for name in every)


RNN = (
    *("rnn", "--channels", "4", "--batch", "6", "--window", "5"),
    *("--words", "20", "--nodes", "2", "--repeats", "2"),
)


@pytest.mark.medium
def test_the_rnn_bench_times_a_step_and_a_product():
    found = json.loads(bench(*RNN, "--json"))
    (row,), (product,) = found["rnn"], found["product"]
    # Of a word 4 x 20 multiply-adds to read it out, 8 x 8 of the first state, 3 of 4 x 8 of nodes.
    assert row["flops"] == 3 * 6 * 5 * 2 * (4 * 20 + 8 * 8 + 3 * 4 * 8)
    assert 0 < row["least_s"] <= row["wall_s"] <= row["most_s"]
    assert product["wall_gflop_per_s"] > 0 and product["cpu_gflop_per_s"] > 0


@pytest.mark.medium
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_the_rnn_bench_comes_to_the_same_loss_as_pytorch():
    found = json.loads(bench(*RNN, "--peer", "torch", "--json"))
    assert [row["step"] for row in found["rnn"]] == ["torch", "ours"]
    assert [row["time"] for row in found["spread"]] == ["wall_s", "cpu_s"]
    assert found["ratios"] == {"weight": found["spread"][0]["torch_over_ours"]}
    (loss,) = found["last_loss"]
    assert loss["ours"] == pytest.approx(loss["torch"], abs=2e-5)


SEARCH = ("search", "--channels", "2", "--layers", "2", "--image", "8", "--batch", "4")


@pytest.mark.medium
def test_the_search_bench_times_the_three_steps():
    found = json.loads(bench(*SEARCH, "--repeats", "1", "--json"))
    assert list(found) == ["search"]
    assert [row["step"] for row in found["search"]] == ["weight", "first", "second"]
    for row in found["search"]:
        assert row["side"] == "ours" and 0 < row["least_s"] <= row["wall_s"] <= row["most_s"]


@pytest.mark.slow
def test_the_seeds_bench_takes_them_in_turn_and_at_once():
    sizes = ("--channels", "2", "--image", "8", "--batch", "2", "--repeats", "1")
    found = json.loads(bench("seeds", *sizes, "--json"))["seeds"]
    assert [(row["seeds"], row["step"]) for row in found] == [
        (count, how) for count in (2, 4) for how in ("in turn", "vectorised")
    ]
    assert all(row["in_turn_over_this"] > 0 < row["least_s"] <= row["wall_s"] for row in found)


@pytest.mark.slow
def test_the_loop_bench_compares_a_run_with_its_programs():
    found = json.loads(bench("loop", "--repeats", "1", "--json"))["loop"]
    assert found["bare_ms"] > 0 and found["run_ms"] > 0
    share = 100 * (found["run_ms"] / found["bare_ms"] - 1)
    assert found["adds_percent"] == pytest.approx(share, abs=0.1)


@pytest.mark.slow
def test_the_memory_bench_tells_batch_remat_and_format_apart(config):
    sizes = ("--config", config, "--layers", "4", "--batch", "32", "--repeats", "1")
    rows = json.loads(bench("memory", *sizes, "--json"))["memory"]
    knobs = ("data.global_batch", "precision.compute", "network.remat")
    assert [tuple(row[knob] for knob in knobs) for row in rows] == [
        (batch, compute, remat)
        for batch in (32, 64)
        for compute in ("float32", "bfloat16")
        for remat in ("false", "true")
    ]
    for stored, again in (rows[:2], rows[4:6]):  # of float32; CPU converts the other at each step
        assert again["gradient_both_temp_mb"] < stored["gradient_both_temp_mb"]
    for one, twice in zip(rows[:4], rows[4:], strict=True):
        assert one["product_temp_mb"] < twice["product_temp_mb"] < 2.5 * one["product_temp_mb"]
        assert one["whole_mb"] > one["product_temp_mb"] and one["gradient_ms"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("layout", [(), ("--layout", "channels_last")], ids=["cpu", "accelerator"])
def test_the_precision_bench_compares_losses_by_number_format(layout):
    sizes = ("--channels", "2", "--layers", "2", "--batch", "8", "--steps", "4")
    rows = json.loads(bench("precision", *sizes, *layout, "--json"))["precision"]
    assert [(row["steps"], row["of"]) for row in rows] == [
        (f"{at} to {at}", of) for at in range(4) for of in ("loss", "valid_loss")
    ]
    first = rows[0]
    assert 1 < first["float32"] < 10
    # Of the first step, by the same weights: rounding, and no more than that.
    assert 0 < abs(first["bfloat16_percent"]) < 5 and abs(first["rounded_percent"]) < 5


@pytest.mark.medium
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_the_search_bench_comes_to_the_same_losses_as_pytorch():
    found = json.loads(bench(*SEARCH, "--repeats", "1", "--peer", "torch", "--json"))
    assert set(found["ratios"]) == {"weight", "first", "second"}
    assert all(ratio > 0 for ratio in found["ratios"].values())


@pytest.mark.parametrize("asked", [RNN, SEARCH], ids=["rnn", "search"])
def test_without_pytorch_a_bench_says_how_to_get_it(asked, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('none', name='torch')")
    command = [sys.executable, str(BENCH), *asked, "--peer", "torch"]
    settings = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, env=settings)
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1 and "pip install torch" in run.stderr


def test_ratios_are_those_on_the_clock_and_the_spread_has_both_times():
    def rows(*seconds):
        return [{"wall_s": one, "cpu_s": 2 * one} for one in seconds]

    found = turns.ratios({"weight": (rows(1, 2, 3), rows(4, 4, 30))})
    assert found["ratios"] == {"weight": 2.0}
    clock, cores = found["spread"]
    assert clock == {
        **{"step": "weight", "time": "wall_s"},
        **{"torch_over_ours": 2.0, "least": 2.0, "most": 10.0},
    }
    assert cores == clock | {"time": "cpu_s"}


@pytest.mark.parametrize(
    "given",
    [
        *(("rnn", "--repeats", "0"), ("search", "--repeats", "-1"), ("search", "--batch", "0")),
        *(("rnn", "--window", "0"), ("rnn", "--words", "1.5"), ("kernels", "--layers", "0")),
        *(("input", "--seconds", "0"), ("input", "--seconds", "-1"), ("input", "--seconds", "nan")),
    ],
    ids=" ".join,
)
def test_a_number_that_measures_nothing_is_bad_input(given):
    with pytest.raises(InputError, match=f"{given[1]}: {given[2]}; wanted"):
        bench_tool.main(given)


def test_a_mistake_is_told_in_one_line():
    command = [sys.executable, str(BENCH), "kernels", "--what", "cells"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1 and "cells" in run.stderr
