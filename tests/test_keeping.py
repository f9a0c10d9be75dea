"""Programs that were traced by one run and are read by the next."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import small_search as small
from etils import epath

from darts_dist import keeping
from darts_dist.keeping import KeptPrograms

RUN = (
    *("configs/tiny.toml", "network.nodes=1", "network.channels=2", "schedule.epochs=1"),
    *("schedule.steps_per_epoch=2", "evaluation.examples=8", "checkpoint.every_steps=2"),
)
MESH = ("seeds.count=2", "mesh.seed=2", "mesh.data=2")


def compiled(kept, *changes):
    """Returns a small search that is compiled, and how often it was traced."""
    step = small.search(*MESH, *changes)
    traced, trace = [], step.trace

    def counted(sizes):
        traced.append(sizes)
        trace(sizes)

    step.trace = counted
    step.compile((small.PX, small.PX, 3), kept)
    return step, len(traced)


def taken_over(step):
    """Returns by program the bytes of arguments that results take over."""
    programs = step.programs.items()
    return {name: one.executable.memory_analysis().alias_size_in_bytes for name, one in programs}


def moved(step):
    """Returns the state after two steps, their metrics, and the sums of an evaluation."""
    blocks, seen = small.run(step, range(2), small.pictures(2, 2))
    (batch,) = small.pictures(2, 1)
    shown = {name: x[0] for name, x in batch["valid"].items()} | {"mask": np.ones(small.ROWS, bool)}
    return small.copied((blocks, seen, step.evaluate(blocks, [shown])))


@pytest.mark.medium
@pytest.mark.parametrize("how", ["exact", "finite_difference"])
def test_what_is_read_is_what_was_traced_to_the_bit(tmp_path, float64, how):
    change = f"method.hypergradient={how}"
    plain, _ = compiled(None, change)
    first, traced = compiled(KeptPrograms(epath.Path(tmp_path), how), change)
    later, again = compiled(KeptPrograms(epath.Path(tmp_path), how), change)
    assert (traced, again) == (1, 0)
    assert plain.programs.keys() == first.programs.keys() == later.programs.keys()
    assert taken_over(plain) == taken_over(first) == taken_over(later)
    wanted = moved(plain)
    small.same(moved(first), wanted)
    small.same(moved(later), wanted)


@pytest.fixture
def tracing(monkeypatch):
    """How often programs of no size were traced."""
    asked = []
    monkeypatch.setattr(keeping.agreement, "code_version", lambda: "now")

    def lower(kept):
        kept.lower({}, lambda: asked.append(kept.file))
        return len(asked)

    return lower


def test_the_key_tells_what_programs_follow_from(tmp_path, tracing, monkeypatch):
    folder = epath.Path(tmp_path)
    assert tracing(KeptPrograms(folder, {"classes": 3})) == 1
    assert tracing(KeptPrograms(folder, {"classes": 3})) == 1
    assert tracing(KeptPrograms(folder, {"classes": 4})) == 2
    with monkeypatch.context() as changed:
        changed.setattr(keeping.agreement, "code_version", lambda: "newer")
        assert tracing(KeptPrograms(folder, {"classes": 3})) == 3
    jax.config.update("jax_random_seed_offset", 5)
    try:
        assert tracing(KeptPrograms(folder, {"classes": 3})) == 4
    finally:
        jax.config.update("jax_random_seed_offset", 0)
    assert tracing(KeptPrograms(folder, {"classes": 3})) == 4


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 80])
def test_a_damaged_file_is_made_anew(tmp_path, tracing, damage):
    kept = KeptPrograms(epath.Path(tmp_path), 1)
    assert tracing(kept) == 1
    kept.file.write_bytes(damage)
    assert tracing(kept) == 2
    assert tracing(kept) == 2


def test_where_nothing_can_be_written_a_warning_says_so(tmp_path, tracing, capsys):
    (tmp_path / "file").write_text("")
    kept = KeptPrograms(epath.Path(tmp_path / "file" / "below"), 1)
    assert tracing(kept) == 1 and tracing(kept) == 2
    assert "warning: nothing is kept for the next run" in capsys.readouterr().err


@pytest.mark.medium
def test_a_second_run_traces_nothing_and_ends_in_the_same_state(tmp_path):
    cache = tmp_path / "cache"

    def run(name, *words):
        command = [sys.executable, "-m", "darts_dist", "search", *RUN, *words]
        settings = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        command += ["--workdir", str(tmp_path / name)]
        subprocess.run(command, env=settings, check=True, capture_output=True, timeout=300)
        return json.loads((tmp_path / name / "result.json").read_text())

    plain = run("plain", "compile.cache=false")
    assert not list(cache.rglob("*.programs"))
    first = run("first")
    (file,) = cache.rglob("*.programs")
    written, second = file.stat().st_mtime_ns, run("second")
    assert plain["state_digest"] == first["state_digest"] == second["state_digest"]
    other = run("other", "seeds.first=7")  # what programs take is no part of them
    assert other["state_digest"] != first["state_digest"]
    assert list(cache.rglob("*.programs")) == [file]
    assert file.stat().st_mtime_ns == written  # whoever traces writes
