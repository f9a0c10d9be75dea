"""The package as a library: its public names, and the example that README shows."""

import inspect
import itertools
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import darts_dist as dd
from darts_dist.errors import ConfigError

ROOT = pathlib.Path(__file__).parent.parent
SIZES = {"channels": 2, "layers": 2, "nodes": 1, "classes": 3}
OPERATIONS = ("none", "skip_connect", "max_pool_3x3")

PUBLIC = """
    CnnGenotype Config Genotype NetworkState Pictures RnnGenotype Search SearchNetwork State
    __version__ derive draw dump_config genotype_to_json load_config load_genotype load_pictures
    start
"""


def example():
    """The Python block of README, without its fence."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return block


@pytest.fixture(scope="module")
def network():
    return dd.SearchNetwork(**SIZES, operations=OPERATIONS)


def test_the_public_names_are_these_and_each_is_there():
    assert sorted(dd.__all__) == sorted(PUBLIC.split())
    for name in dd.__all__:
        assert getattr(dd, name) is not None
    assert set(dd.__all__) <= set(dir(dd))


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = dd.Nothing


def test_what_is_public_is_explained_and_typed():
    assert (ROOT / "darts_dist" / "py.typed").exists()
    for name in sorted(set(dd.__all__) - {"__version__", "Genotype"}):
        thing = getattr(dd, name)
        assert inspect.getdoc(thing), name
        called = thing.__init__ if inspect.isclass(thing) else thing
        if inspect.isfunction(called):
            hints = inspect.signature(called).parameters.values()
            missing = [one.name for one in hints if one.annotation is one.empty]
            assert missing in ([], ["self"]), (name, missing)


def test_importing_the_package_imports_neither_jax_nor_numpy():
    code = "import sys, darts_dist; sys.exit(bool({'jax', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.medium
def test_the_example_of_readme_runs_as_it_is_shown(capsys):
    block = example()
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    values = {}
    exec(compile(block, "README.md", "exec"), values)
    first, second = values["search"].derive(values["states"])
    assert str(first) in capsys.readouterr().out
    assert isinstance(second, dd.CnnGenotype)


def test_the_callable_and_the_functional_form_give_the_same(network):
    state = network.init(jax.random.key(0))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
    logits, moved = network(images, state, train=True)
    again, stats = network.apply(state.params, state.stats, state.alphas, images, train=True)
    np.testing.assert_array_equal(logits, again)
    assert logits.shape == (4, SIZES["classes"])
    for a, b in zip(jax.tree.leaves(moved.stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_array_equal(a, b)


def test_statistics_move_in_training_only(network):
    state = network.init(jax.random.key(0))
    images = jnp.ones((2, 8, 8, 3))
    _, still = network(images, state)
    _, moved = network(images, state, train=True)

    def distance(a):
        pairs = zip(jax.tree.leaves(a.stats), jax.tree.leaves(state.stats), strict=True)
        return sum(float(jnp.abs(x - y).sum()) for x, y in pairs)

    assert distance(still) == 0
    assert distance(moved) > 0


def test_equal_keys_give_equal_networks_and_others_do_not(network):
    one, two, other = (network.init(jax.random.key(key)).alphas for key in (0, 0, 1))
    np.testing.assert_array_equal(one["normal"], two["normal"])
    assert (one["normal"] != other["normal"]).any()
    assert one["normal"].shape == (2, len(OPERATIONS))


def test_a_genotype_follows_from_a_state(network):
    state = network.init(jax.random.key(0))
    cells = network.derive(state)
    assert cells == dd.derive(state.alphas, OPERATIONS)
    assert {name for name, _ in cells.normal} <= set(OPERATIONS) - {"none"}
    assert dd.load_genotype(dd.genotype_to_json(cells)) == cells
    assert dd.draw(cells, "svg").startswith(b"<svg")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": 0}, "network.channels = 0; wanted whole number >= 1"),
        ({"classes": 1}, "network.classes = 1; wanted at least 2"),
        ({"stem": "vgg"}, 'network.stem = "vgg"; wanted cifar | imagenet'),
        ({"operations": ["conv"]}, "space.operations"),
        ({"operations": ["none"]}, "at least one operation besides none"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        dd.SearchNetwork(**sizes)


def test_own_arrays_are_measured_and_fed():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 8, 8, 3), np.uint8)
    labels = rng.integers(0, 3, 64, np.int32)
    config = dd.load_config(None, ["network.image_px=8", "data.global_batch=16", "seeds.count=2"])
    search = dd.Search(config, dd.Pictures(images, labels, ("a", "b", "c"), (), ()))
    np.testing.assert_allclose(search.pictures.mean, images.mean((0, 1, 2)) / 255)
    (batch,) = itertools.islice(search.batches(), 1)
    assert batch["train"]["image"].shape == (2, 16, 8, 8, 3)
    with pytest.raises(ConfigError, match=r"network\.image_px=32"):
        dd.Search(dd.load_config(None), search.pictures)
