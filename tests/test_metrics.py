"""What a run records: lines, alphas, the log; also after an interruption."""

import errno
import json
import os
import sys

import numpy as np
import pytest
from etils import epath

from darts_dist import metrics
from darts_dist.errors import StorageError


def recorder(folder, **settings):
    return metrics.Recorder(folder, **{"main": True, "seeds": (5, 6), "total_steps": 8, **settings})


def line(epoch, seed):
    return {"epoch": epoch, "step": 2 * epoch, "seed": seed, "valid_loss": 0.5}


def alphas(epoch):
    return {cell: np.full((2, 5, 3), epoch, np.float32) for cell in ("normal", "reduce")}


def filled(folder, epochs=(1, 2, 3)):
    record = recorder(folder)
    for epoch in epochs:
        record.alphas(epoch, alphas(epoch))
        record.epoch([line(epoch, 5), line(epoch, 6)])
    return record


def stored_lines(folder):
    return [json.loads(text) for text in (folder / "genotypes.jsonl").read_text().splitlines()]


def test_other_processes_write_nothing(tmp_path, capsys):
    record = recorder(tmp_path / "run", main=False)
    record.message("text")
    record.progress(1, "text")
    record.epoch([line(1, 5)])
    record.alphas(1, alphas(1))
    record.drop_after(0)
    record.close()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_lines_and_alphas_are_kept_for_every_epoch(tmp_path):
    filled(tmp_path)
    assert stored_lines(tmp_path) == [line(epoch, seed) for epoch in (1, 2, 3) for seed in (5, 6)]
    with np.load(tmp_path / "alphas.npz") as file:
        assert file["normal"].shape == file["reduce"].shape == (3, 2, 5, 3)
        assert file["epochs"].tolist() == [1, 2, 3]
        assert file["seeds"].tolist() == [5, 6]
        assert file["normal"][:, 0, 0, 0].tolist() == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alphas.npz", "genotypes.jsonl"]


@pytest.mark.parametrize("step", [0, 2, 5])
def test_what_came_after_the_checkpoint_is_dropped_and_written_again(tmp_path, step):
    filled(tmp_path)
    record = recorder(tmp_path)
    record.drop_after(step)
    kept = [epoch for epoch in (1, 2, 3) if 2 * epoch <= step]
    assert [entry["epoch"] for entry in stored_lines(tmp_path)] == sorted(2 * kept)
    for epoch in range(len(kept) + 1, 4):
        record.alphas(epoch, alphas(epoch))
        record.epoch([line(epoch, 5), line(epoch, 6)])
    assert stored_lines(tmp_path) == [line(epoch, seed) for epoch in (1, 2, 3) for seed in (5, 6)]
    with np.load(tmp_path / "alphas.npz") as file:
        assert file["epochs"].tolist() == [1, 2, 3]
        assert file["normal"][:, 0, 0, 0].tolist() == [1, 2, 3]


def test_half_written_files_are_taken_up_as_far_as_they_go(tmp_path):
    filled(tmp_path)
    lines = tmp_path / "genotypes.jsonl"
    lines.write_text(lines.read_text()[:-10])
    (tmp_path / "alphas.npz").write_bytes(b"PK")
    record = recorder(tmp_path)
    record.drop_after(6)
    record.alphas(4, alphas(4))
    record.epoch([line(4, 5)])
    assert len(stored_lines(tmp_path)) == 6
    with np.load(tmp_path / "alphas.npz") as file:
        assert file["epochs"].tolist() == [4]


def test_messages_go_to_stdout_and_to_the_log(tmp_path, capsys):
    recorder(tmp_path).message("one")
    recorder(tmp_path).message("two")
    assert capsys.readouterr().out == "one\ntwo\n"
    texts = (tmp_path / "log.txt").read_text().splitlines()
    assert [text.split(" ", 2)[2] for text in texts] == ["one", "two"]


def test_without_a_terminal_progress_is_lines_at_a_bounded_rate(tmp_path, capsys):
    record = recorder(tmp_path)
    for step in range(1, 9):
        record.progress(step, f"loss {step}")
    assert capsys.readouterr().out == "step 1/8  loss 1\nstep 8/8  loss 8\n"


def test_on_a_terminal_progress_is_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    record = recorder(tmp_path)
    record.progress(4, "loss 2")
    record.progress(8, "loss 1")
    record.message("text")
    record.close()
    out, err = capsys.readouterr()
    assert "text\n" in out
    assert "8/8" in err
    assert "loss 1" in err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("what", ["message", "epoch", "alphas"])
def test_a_failing_disk_is_a_storage_error(tmp_path, monkeypatch, number, what):
    record = recorder(tmp_path)

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("builtins.open", fail)
    calls = {
        "message": lambda: record.message("text"),
        "epoch": lambda: record.epoch([line(1, 5)]),
        "alphas": lambda: record.alphas(1, alphas(1)),
    }
    with pytest.raises(StorageError, match=os.strerror(number)):
        calls[what]()
    monkeypatch.undo()
    record.close()


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "result.json"
    metrics.write_whole(path, "old")
    metrics.write_whole(path, b"new")
    assert path.read_bytes() == b"new"

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="No space left"):
        metrics.write_whole(path, "newer")
    assert [found.name for found in path.parent.iterdir()] == ["result.json"]
    assert path.read_bytes() == b"new"


def test_numbers_that_are_not_finite_are_null_and_keep_their_keys(tmp_path):
    bad = {"valid_loss": float("nan"), "deep": [{"a": float("inf")}, (1.5, -float("inf"))]}
    record = recorder(tmp_path)
    record.epoch([line(1, 5) | bad])
    text = (tmp_path / "genotypes.jsonl").read_text()
    found = json.loads(text, parse_constant=pytest.fail)
    assert found == line(1, 5) | {"valid_loss": None, "deep": [{"a": None}, [1.5, None]]}
    again = recorder(tmp_path)
    again.drop_after(2)
    again.epoch([line(2, 5)])
    assert [entry["valid_loss"] for entry in stored_lines(tmp_path)] == [None, 0.5]


def test_a_remote_log_is_written_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(metrics, "_is_local", lambda path: False)
    record = recorder(tmp_path)
    record.message("one")
    record.message("two")
    record.epoch([line(1, 5)])
    record.close()
    again = recorder(tmp_path)
    again.message("three")
    again.close()
    texts = epath.Path(tmp_path / "log.txt").read_text().splitlines()
    assert [text.split(" ", 2)[2] for text in texts] == ["one", "two", "three"]
    assert stored_lines(tmp_path) == [line(1, 5)]
