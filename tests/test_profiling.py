"""Where the time of a step goes: traces of real programs, and their tables."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from darts_dist import losses, profiling
from darts_dist.profiling import Profile


@pytest.fixture(scope="module")
def program():
    """A compiled program of a loss and its gradient, by logits f[64, 10]."""

    def gradient(logits):
        return jax.grad(lambda x: losses.cross_entropy(x, jnp.arange(64) % 10).mean())(logits)

    return jax.jit(gradient).lower(jax.ShapeDtypeStruct((64, 10), jnp.float32)).compile()


def test_an_instruction_tells_the_function_that_it_was_made_in_and_which_way(program):
    origins = set(profiling.origins_of(program.as_text()).values())
    assert ("losses.py cross_entropy", "forward") in origins
    assert ("losses.py cross_entropy", "backward") in origins


def test_a_text_that_tells_no_places_gives_none():
    bare = 'ENTRY %main {\n  %add.1 = f32[] add(%a, %b), metadata={op_name="x" stack_frame_id=7}\n}'
    assert profiling.origins_of(bare) == {"add.1": ("other code", "")}
    assert profiling.origins_of("") == {}


def test_a_profile_of_some_steps_has_a_trace_and_a_table(program, tmp_path):
    said, x = [], jnp.ones((64, 10))
    profile = Profile(epath.Path(tmp_path), 2, lambda: {"gradient": program.as_text()}, said.append)
    for done in range(6):
        profile.before(done, x)
        with jax.profiler.TraceAnnotation("darts:dispatch"):
            x = program(x)
    profile.end(6, x)
    (told,) = said
    assert told.startswith("Where the time of a step goes, mean of 2, in ms:")
    assert re.search(r"100 %  dispatch\n", told)
    assert re.search(r"[1-9]\d* %  gradient\n", told)
    assert re.search(r"%  losses.py cross_entropy (forward|backward)\n", told)
    assert (tmp_path / "profile.txt").read_text() in told + "\n"
    (trace,) = (tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb")
    steps = [name for program, name, _ in profiling.events(read(trace)) if not program]
    assert steps == ["darts:dispatch"] * 2


def read(trace):
    return jax.profiler.ProfileData.from_file(str(trace))


def test_a_run_that_ends_early_tells_of_the_steps_it_took(program, tmp_path):
    said, x = [], jnp.ones((64, 10))
    profile = Profile(epath.Path(tmp_path), 100, dict, said.append)
    for done in range(5):
        profile.before(done, x)
        x = program(x)
    profile.end(5, x)
    assert "mean of 3" in said[0]
    profile.end(5, x)
    assert len(said) == 1


def test_times_are_of_one_step_and_add_up_by_program_and_code():
    seen = [
        ("", "darts:feed", 2.0),
        ("one", "add.1", 3.0),
        ("one", "add.1", 1.0),
        ("two", "mul.4", 4.0),
    ]
    told = profiling.table(seen, {}, 2)
    rows = [re.split(r"\s{2,}", line.strip(), maxsplit=2) for line in told.splitlines()]
    numbers = [row for row in rows if len(row) > 1 and row[0] == "2.00"]
    assert [row[-1].split("%")[-1].strip() for row in numbers] == [
        "one",
        "two",
        "one: add.1 of other code",
        "two: mul.4 of other code",
    ]
    assert re.search(r"1\.00 +100 %  next batch", told)
    assert re.search(r"4\.00 +100 %  other code", told)


TINY = pathlib.Path(__file__).parent.parent / "configs" / "tiny.toml"


@pytest.mark.medium
@pytest.mark.timeout(300)
def test_profile_is_an_option_of_search(tmp_path):
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "darts_dist", "search", str(TINY), "--profile", "3"]
    command += ["--workdir", str(workdir), "--json", "network.layers=1", "seeds.count=1"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout.splitlines()[-1])["status"] == "completed"
    told = (workdir / "profile.txt").read_text()
    for part in ("next batch", "wait for devices", "gradient_params", "weight_step", "nets/"):
        assert part in told
    assert told.rstrip("\n") in run.stdout


def test_profile_takes_a_number():
    command = [sys.executable, "-m", "darts_dist", "search", str(TINY), "--profile", "some"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1 and "log.profile_steps" in run.stderr
