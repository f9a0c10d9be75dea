"""Finding faults: programs that are not compiled, NaNs that name their operation, and what
`--debug` and the script for one GPU do.
"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_search as small
import small_training as training
from jax.sharding import NamedSharding

from darts_dist import cluster
from darts_dist.programs import BATCH, SEED, SHARED, SPECS, Program, compile_all, lower_all
from darts_dist.searchstep import SearchStep

ROOT = pathlib.Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "debug_single_gpu.sh"
ONE = ("mesh.seed=1", "mesh.data=1")
WAYS = ({"eager": True}, {"eager": False})


def program(body, takes=(SEED,), **how):
    """A program of one device."""
    return Program("toy", cluster.make_mesh(1, 1, 1), body, takes, **how)


def placed(made, kind, values):
    return jax.device_put(np.asarray(values), NamedSharding(made.mesh, SPECS[kind]))


def test_a_program_that_is_not_compiled_shows_its_values():
    seen = []

    def body(x, batch):
        seen.append(float(x.sum()) + float(jax.jit(jnp.sum)(batch)))
        place = jax.lax.axis_index("data")
        return {"sum": jax.lax.psum(x, "data") + place, "mean": jax.lax.pmean(batch, "data").mean()}

    made = program(body, (SEED, SHARED), eager=True)
    given = placed(made, SEED, [[1.0, 2.0]]), placed(made, SHARED, [4.0, 6.0])
    out = made(*given)
    assert seen == [13.0]
    np.testing.assert_array_equal(out["sum"], [[1.0, 2.0]])
    np.testing.assert_array_equal(out["mean"], [5.0])
    assert out["sum"].sharding == NamedSharding(made.mesh, SPECS[SEED])


@pytest.mark.parametrize("ahead", (True, False), ids=("compiled", "at_first_call"))
@pytest.mark.parametrize("how", WAYS, ids=("eager", "compiled"))
def test_a_nan_names_the_operation_and_the_program(how, ahead, capsys):
    made = program(lambda x: jnp.exp(jnp.log(x)), stop_at_nan=True, donate=(0,), **how)
    if ahead and not how["eager"]:
        made(jax.ShapeDtypeStruct((1, 2), jnp.float32))
        compile_all(lambda: lower_all([made]))
    np.testing.assert_allclose(made(placed(made, SEED, [[1.0, 2.0]])), [[1, 2]], rtol=1e-6)
    bad = placed(made, SEED, [[1.0, -1.0]])
    with pytest.raises(FloatingPointError, match=r"\(nan\) encountered in log of toy"):
        made(bad)
    with pytest.raises(FloatingPointError, match="log of toy"):  # what it was given is still there
        made(bad)


def test_no_program_has_an_operation_without_a_deterministic_form(float64):
    config = small.config_of(*ONE, "method.hypergradient=exact")
    mesh, how = cluster.make_mesh(1, 1, 1), {"mean": (0.5,) * 3, "std": (0.3,) * 3}
    step = SearchStep(config, mesh, classes=3, epoch_steps=2, layout="channels_last", **how)
    step.trace((small.PX, small.PX, 3))
    texts = [program.lower().as_text() for program in step.programs.values()]
    assert any("stablehlo.convolution" in text for text in texts)
    assert not any("select_and_scatter" in text for text in texts)


def test_an_infinity_is_no_nan():
    made = program(lambda x: 1 / x, stop_at_nan=True)
    assert np.isinf(made(placed(made, SEED, [0.0]))).all()


@pytest.mark.medium
def test_an_eager_step_equals_a_compiled_one(float64):
    sizes = (*ONE, "network.layers=1", 'space.operations=["skip_connect", "sep_conv_3x3"]')
    ends = []
    for changes in ((), ("debug.eager=true", "debug.nans=true")):
        step = small.search(*sizes, "method.hypergradient=exact", *changes)
        if not changes:
            step.compile((small.PX, small.PX, 3))
        else:
            assert step.compile((small.PX, small.PX, 3)) == {"trace_s": 0.0, "compile_s": 0.0}
        train, valid = step.place(small.prepared(step, 0), BATCH, whole=True)
        ready = {"train": train, "valid": valid}
        ends.append(small.copied(step.update(small.begun(step), ready, 0.1)))
    small.near(ends[1], ends[0], 1e-9)


@pytest.mark.medium
def test_an_eager_training_step_equals_a_compiled_one(float64):
    # In parts and with cells computed twice: loops and recomputing are Python's then, too.
    sizes = (*ONE, "network.layers=1", "data.accumulate=2", "network.remat=true")
    ends = []
    for changes in ((), ("debug.eager=true",)):
        task = training.training(*sizes, *changes)
        task.compile()
        states, seen = training.run(task, 1)
        ends.append((small.copied(states), seen, small.copied(task.evaluate(states))))
    small.near(ends[1], ends[0], 1e-9)


TINY = (
    "network.nodes=1",
    "network.layers=1",
    "network.channels=2",
    'space.operations=["skip_connect"]',
    "method.preset=darts_first",
)


TINY_TEXT = (
    "network.channels=4",
    "data.global_batch=8",
    "data.window=5",
    "evaluation.rows=6",
)
TEXTS = {
    "search": ("search_text_sample.toml", *TINY_TEXT, "network.nodes=1"),
    "train": ("train_text_sample.toml", *TINY_TEXT, "evaluation.test_batch=50", "data.sizes=[]"),
}


def search(*words, verb="search", **environment):
    """Runs `darts-dist search` by itself, or another verb; returns what became of it."""
    command = [sys.executable, "-m", "darts_dist", verb, *words]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)


@pytest.mark.medium
@pytest.mark.timeout(300)
def test_debug_shows_the_network_and_stops_at_a_nan(tmp_path):
    rate = "weights.learning_rate=1e30"
    workdir = ("--workdir", str(tmp_path / "run"))
    done = search(str(ROOT / "configs/tiny.toml"), *TINY, "--debug", rate, *workdir)
    assert done.returncode == 3, done.stderr
    log = (tmp_path / "run" / "log.txt").read_text()
    assert all(re.search(r"classifier +2x2x4 ", text) for text in (log, done.stdout)), log
    assert "Traceback" in done.stderr and "darts_dist/nets/" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("darts-dist: error: seed 0, step 2: invalid value (nan) encountered in ")
    assert ", darts_dist/nets/" in last and "last good: no checkpoint yet" in last


@pytest.mark.medium
@pytest.mark.timeout(300)
@pytest.mark.parametrize("verb", TEXTS)
def test_debug_of_a_text_shows_the_network_and_stops_at_a_nan(verb, tmp_path):
    config, *words = TEXTS[verb]
    words = [str(ROOT / "configs" / config), *words, "--debug"]
    for name, more, code in (("well", (), 0), ("ill", ("weights.learning_rate=1e38",), 3)):
        done = search(*words, *more, "--workdir", str(tmp_path / name), verb=verb)
        assert done.returncode == code, done.stderr
        assert re.search(
            r"matrix of words, in and out +\d", (tmp_path / name / "log.txt").read_text()
        )
    result = json.loads((tmp_path / "well" / "result.json").read_text())
    assert result["devices"]["count"] == len(result["seeds"]) == 1
    last = done.stderr.splitlines()[-1]
    assert "Traceback" in done.stderr and "invalid value (nan) encountered in " in last
    assert last.startswith("darts-dist: error: seed 0, step ") and ", darts_dist/" in last


PROGRAM = """
import os, sys, jax, jax.numpy as jnp
from darts_dist import cluster, ending
def run():
    cluster.start(**eval(sys.argv[1]))
    products = jax.jit(jnp.matmul).lower(jnp.ones((2, 2)), jnp.ones((2, 2))).as_text()
    print("HIGHEST" in products, "HIGH," in products, os.environ["XLA_FLAGS"])
    print(jax.jit(jnp.matmul)(jnp.ones((2, 2)), jnp.ones((2, 2))).sum())
    return 0
ending.finish(run)
"""


def start(settings, **environment):
    """What becomes of a process that starts jax with these settings."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("JAX")}
    given.pop("XLA_FLAGS", None)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, repr({"cache": False, **settings})],
        env={**given, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("settings", "highest"),
    [({}, True), ({"matmul": "tensorfloat32"}, False), ({"matmul": "default"}, False)],
)
def test_products_of_float32_are_whole_unless_asked_otherwise(settings, highest):
    words = start({"platform": "cpu", **settings}).stdout.split()
    assert words[0] == str(highest)
    assert words[1] == str(settings.get("matmul") == "tensorfloat32")


def test_deterministic_sets_flags_that_xla_takes():
    done = start({"platform": "cpu", "deterministic": True})
    assert done.returncode == 0, done.stderr
    for name in ("xla_gpu_deterministic_ops", "xla_gpu_exclude_nondeterministic_ops"):
        assert f"--{name}=true" in done.stdout
    assert done.stdout.splitlines()[-1] == "8.0"


def test_deterministic_is_refused_where_the_environment_says_otherwise():
    flags = "--xla_gpu_deterministic_ops=false"
    done = start({"platform": "cpu", "deterministic": True}, XLA_FLAGS=flags)
    assert done.returncode == 2
    assert "precision.deterministic = true needs --xla_gpu_deterministic_ops=true" in done.stderr


without_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is not None, reason="jax has a plugin here"
)


@without_cuda
@pytest.mark.parametrize("platform", ("cuda", "tpu"))
def test_a_platform_that_is_not_here_names_its_extra(platform):
    done = start({"platform": platform})
    assert done.returncode == 2
    assert done.stderr.startswith(f"darts-dist: error: no devices of platform {platform}: ")
    assert f"pip install 'darts-dist[{platform}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def script(*words):
    settings = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [str(SCRIPT), *words], env=settings, capture_output=True, text=True, timeout=120
    )


def test_the_script_for_one_gpu_explains_itself():
    done = script("--help")
    assert done.returncode == 0 and "CUDA_VISIBLE_DEVICES" in done.stdout


@without_cuda
def test_the_script_for_one_gpu_ends_in_one_line_without_one():
    done = script("configs/tiny.toml", "seeds.first=3")
    assert done.returncode == 2
    assert "darts-dist[cuda]" in done.stderr and len(done.stderr.splitlines()) == 1
