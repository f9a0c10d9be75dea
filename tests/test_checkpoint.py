"""Checkpoints come back bit for bit, on any mesh, and a bad one is never taken."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from darts_dist import checkpoint, cluster, packing
from darts_dist.errors import CheckpointError, ConfigError, StorageError


def state(mesh, seeds=4, shift=0):
    """A tree of every kind of leaf that a state has, sharded over seeds."""
    rng = np.random.default_rng(shift)
    sharding = NamedSharding(mesh, PartitionSpec("seed"))

    def put(array):
        return jax.device_put(array, sharding)

    return {
        "step": put(np.full(seeds, shift, np.int32)),
        "key": put(jax.random.split(jax.random.key(shift), seeds)),
        "params": {
            "kernel": put(rng.normal(size=(seeds, 3, 5)).astype(np.float32)),
            "half": put(jnp.asarray(rng.normal(size=(seeds, 7)), jnp.bfloat16)),
            "none": put(np.zeros((seeds, 0), np.float32)),
            "mask": put(rng.random((seeds, 2)) > 0.5),
        },
        "stats": (put(rng.normal(size=(seeds, 2)).astype(np.float32)),),
    }


def like(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def bits(tree):
    return [np.asarray(packing._raw(leaf)).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture
def mesh():
    return cluster.make_mesh(4, 2, 4)


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def saved(tmp_path, mesh, warnings):
    """An open folder with the checkpoints 2, 4 and 6, of which three are kept."""
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3, warn=warnings.append)
    for step in (2, 4, 6):
        checkpoints.save(step, state(mesh, shift=step), {"config": {"name": "x"}})
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


@pytest.mark.parametrize("sizes", [(1, 1), (4, 2), (1, 8), (2, 1)])
def test_a_state_comes_back_bit_for_bit_on_any_mesh(saved, mesh, warnings, sizes):
    wanted = like(state(cluster.make_mesh(4, *sizes)))
    found, meta, step = saved.restore(wanted)
    assert (step, meta) == (6, {"config": {"name": "x"}})
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    assert bits(found) == bits(state(mesh, shift=6))
    assert all(
        a.sharding == b.sharding and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    )
    assert warnings == []


def test_a_restored_state_can_be_donated(saved, mesh):
    found, _, _ = saved.restore(like(state(mesh)))
    kernel = found["params"]["kernel"]
    expected = np.asarray(kernel) * 2
    step = jax.jit(lambda x: x * 2, donate_argnums=0)
    np.testing.assert_array_equal(step(kernel), expected)


def test_saving_says_nothing(saved, capfd):
    assert capfd.readouterr() == ("", "")


def test_a_state_may_be_donated_once_it_is_being_saved(tmp_path, mesh):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    original = state(mesh)
    expected = bits(original)
    checkpoints.save(1, original, {})
    jax.tree.map(lambda leaf: leaf.delete(), original)
    checkpoints.wait()
    found, _, _ = checkpoints.restore(like(state(mesh)))
    assert bits(found) == expected


def test_only_the_newest_are_kept(tmp_path, mesh):
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=2)
    for step in range(1, 5):
        checkpoints.save(step, state(mesh), {})
    checkpoints.close()
    assert checkpoints.steps() == [3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path, mesh):
    checkpoints = checkpoint.Checkpoints(tmp_path / "none")
    assert checkpoints.steps() == []
    assert checkpoints.restore(like(state(mesh))) is None


def test_empty_and_unfinished_folders_are_never_chosen(saved, mesh, tmp_path, warnings):
    folder = tmp_path / "checkpoints"
    (folder / "9").mkdir()
    (folder / "8.orbax-checkpoint-tmp-0").mkdir()
    (folder / "6" / "state" / "_METADATA").unlink()
    assert saved.steps() == [2, 4]
    assert saved.restore(like(state(mesh)))[2] == 4
    assert warnings == []
    saved.save(6, state(mesh, shift=9), {})
    saved.wait()
    assert saved.steps() == [2, 4, 6]
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4", "6"]


def test_a_reader_takes_what_is_whole_and_removes_nothing(saved, mesh, tmp_path, warnings):
    folder = tmp_path / "checkpoints"
    (folder / "9").mkdir()
    (folder / "8.orbax-checkpoint-tmp-0").mkdir()
    chunk(folder / "6").write_bytes(b"")
    reader = checkpoint.Checkpoints(folder, warn=warnings.append, owned=False)
    before = sorted(path for path in folder.rglob("*"))
    assert reader.restore(like(state(mesh)))[2] == 4
    reader.close()
    assert sorted(path for path in folder.rglob("*")) == before
    assert len(warnings) == 1
    empty = tmp_path / "other"
    (empty / "8.orbax-checkpoint-tmp-0").mkdir(parents=True)
    assert checkpoint.Checkpoints(empty, owned=False).restore(like(state(mesh))) is None
    assert len(list(empty.iterdir())) == 1


def chunk(folder):
    """The largest file of the arrays: the packed float32 rows are in it."""
    return max((folder / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def test_a_flipped_bit_anywhere_never_comes_back_as_a_value(tmp_path, mesh, warnings):
    checkpoints = checkpoint.Checkpoints(tmp_path, warn=warnings.append)
    for step in (1, 2):
        checkpoints.save(step, state(mesh, shift=step), {"a": 1})
    checkpoints.wait()
    good = {step: bits(state(mesh, shift=step)) for step in (1, 2)}
    rng, wanted = np.random.default_rng(0), like(state(mesh))
    files = sorted(path for path in (tmp_path / "2").rglob("*") if path.is_file())
    for path in files:
        content = path.read_bytes()
        if not content:
            continue
        for place in rng.integers(len(content), size=3):
            changed = bytearray(content)
            changed[place] ^= 1 << rng.integers(8)
            path.write_bytes(changed)
            try:
                found, _, _ = checkpoints._read(2, wanted, None)
            except checkpoint.Unusable:
                pass
            else:
                assert bits(found) == good[2], path
            path.write_bytes(content)


def test_a_broken_checkpoint_is_named_and_the_one_before_is_taken(saved, mesh, tmp_path, warnings):
    path = chunk(tmp_path / "checkpoints" / "6")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, _, step = saved.restore(like(state(mesh)))
    assert step == 4
    assert bits(found) == bits(state(mesh, shift=4))
    assert len(warnings) == 1
    assert "checkpoint 6 in" in warnings[0]
    assert saved.steps() == [2, 4]


def test_a_changed_description_is_noticed(saved, mesh, tmp_path, warnings):
    path = tmp_path / "checkpoints" / "6" / "meta" / "metadata"
    path.write_text(path.read_text().replace('"name": "x"', '"name": "y"'))
    assert saved.restore(like(state(mesh)))[2] == 4
    assert "checksum of its description" in warnings[0]


def test_when_all_are_broken_the_run_is_refused_and_all_are_kept(saved, mesh, tmp_path, warnings):
    for step in (2, 4, 6):
        (tmp_path / "checkpoints" / str(step) / "meta" / "metadata").write_text("{")
    with pytest.raises(CheckpointError, match="none of the 3 checkpoints"):
        saved.restore(like(state(mesh)))
    assert len(warnings) == 3
    assert saved.steps() == [2, 4, 6]


def test_every_leaf_that_does_not_fit_is_named(saved, mesh):
    tree = state(mesh)
    sharding = NamedSharding(mesh, PartitionSpec("seed"))
    tree["params"]["kernel"] = jax.device_put(np.zeros((4, 3, 6), np.float32), sharding)
    tree["params"]["half"] = tree["params"]["half"].astype(jnp.float32)
    tree["params"]["extra"] = tree["params"].pop("mask")
    with pytest.raises(CheckpointError) as caught:
        saved.restore(like(tree))
    text = str(caught.value)
    assert "params/kernel: stored float32[4, 3, 5], this run has float32[4, 3, 6]" in text
    assert "params/half: stored bfloat16[4, 7], this run has float32[4, 7]" in text
    assert "params/mask: stored bool[4, 2], this run has nothing" in text
    assert "params/extra: stored nothing, this run has bool[4, 2]" in text
    assert saved.steps() == [2, 4, 6]


def test_the_config_is_checked_before_the_leaves(saved, mesh):
    def check(meta):
        raise ConfigError(f"another config than {meta['config']}")

    with pytest.raises(ConfigError, match="another config"):
        saved.restore(like({"other": state(mesh)["step"]}), check)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "No space left"),
        (OSError(30, "Read-only file system"), "Read-only"),
        (ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device"), "No space left"),
    ],
)
def test_lost_storage_is_told_apart(saved, mesh, monkeypatch, error, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(saved._writer, "save", fail)
    with pytest.raises(StorageError, match=said):
        saved.save(8, state(mesh), {})


def test_a_digest_depends_on_content_alone(mesh):
    before = packing.digests(state(mesh))
    assert len(set(before)) == len(before) == 4 and {len(one) for one in before} == {64}
    for sizes in [(1, 1), (4, 2), (1, 8)]:
        assert packing.digests(state(cluster.make_mesh(4, *sizes))) == before
    changed = packing.digests(state(mesh, shift=1))
    assert not set(changed) & set(before)
    assert packing.digest(changed) != packing.digest(before)
    renamed = state(mesh)
    renamed["step2"] = renamed.pop("step")
    assert packing.digests(renamed) != before


def test_the_description_is_plain_json(saved, tmp_path):
    path = pathlib.Path(tmp_path) / "checkpoints" / "6" / "meta" / "metadata"
    assert json.loads(path.read_text())["record"]["step"] == 6
