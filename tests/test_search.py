"""Whole searches by the command line: killed, stopped, resumed, they end as one left alone does."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from board import Board

SIZES = (
    "network.nodes=1",
    "network.channels=2",
    "seeds.count=2",
    "method.preset=darts_first",
    "schedule.steps_per_epoch=12",
)
COMMAND = [sys.executable, "-m", "darts_dist", "search", "configs/tiny.toml", *SIZES]


def start(workdir):
    with open(f"{workdir}.out", "a") as out:
        return subprocess.Popen([*COMMAND, "--workdir", str(workdir)], stdout=out, stderr=out)


def result_of(workdir):
    return json.loads((workdir / "result.json").read_text())


@pytest.mark.medium
@pytest.mark.timeout(300)
def test_killed_and_stopped_runs_resume_to_the_state_of_one_left_alone(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole).wait(200) == 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = start(broken)
        marks = broken / "checkpoints"
        before = set(os.listdir(marks)) if marks.exists() else set()
        ends = time.monotonic() + 100
        while time.monotonic() < ends and process.poll() is None:
            now = {name for name in (os.listdir(marks) if marks.exists() else ()) if name.isdigit()}
            if now - before:
                break
            time.sleep(0.005)
        process.send_signal(number)
        code = process.wait(60)
        assert code in (-number, 75) or (broken / "result.json").exists()
    assert start(broken).wait(100) == 0
    alone, resumed = result_of(whole), result_of(broken)
    assert resumed["state_digest"] == alone["state_digest"]
    assert resumed["resumed_from"] and not alone["resumed_from"]
    assert (broken / "genotypes.jsonl").read_text() == (whole / "genotypes.jsonl").read_text()
    compare_pages(Board(whole / "tensorboard"), Board(broken / "tensorboard"))


def compare_pages(alone, resumed):
    assert alone.runs == resumed.runs == ["seed-0", "seed-1"]
    for run in alone.runs:
        shown, wanted = (board.everything(run, "scalars", "images") for board in (resumed, alone))
        assert shown.keys() == wanted.keys()
        for tag in wanted:
            steps = [step for step, _ in wanted[tag]]
            assert [step for step, _ in shown[tag]] == steps, tag
            assert tag.startswith("speed/") or shown[tag] == wanted[tag], tag
        assert [step for step, _ in shown["cells/normal"]] == [12, 24]
        assert [step for step, _ in shown["loss/train"]] == [4, 8, 12, 16, 20, 24]
    assert resumed.sessions() == alone.sessions()
    assert {status for _, _, status in resumed.sessions().values()} == {"STATUS_SUCCESS"}
