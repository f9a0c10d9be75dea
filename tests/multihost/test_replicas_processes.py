"""A device that computes wrongly, in a search of two processes."""

import json
import sys

import launching
import pytest

pytestmark = pytest.mark.multiprocess
TWO = ({"JAX_NUM_CPU_DEVICES": "2"},) * 2
FAULTY = """
import dataclasses, sys
import jax, numpy as np
from darts_dist import bilevel, cli, cluster

def flip(array):
    copies = []
    for shard in array.addressable_shards:
        own = np.array(shard.data)
        if shard.device == jax.local_devices()[-1] and jax.process_index() == 1:
            own.reshape(-1).view(np.uint32)[0] ^= 1
        copies.append(jax.device_put(own, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, copies)

advance, taken = bilevel.Search.advance, []

def faulty(self, states, batch, epoch):
    (state,), metrics = advance(self, states, batch, epoch)
    taken.append(0)
    if len(taken) == 5:
        leaves, tree = jax.tree.flatten(state.params)
        params = jax.tree.unflatten(tree, [flip(leaves[0]), *leaves[1:]])
        state = dataclasses.replace(state, params=params)
    return (state,), metrics

bilevel.Search.advance = faulty
sys.argv[0] = "darts-dist"
cli.entry()
"""


@pytest.mark.parametrize(
    ("overrides", "at"),
    [((), 6), (("debug.replicas_every_steps=1",), 5)],
    ids=["before a save", "every step"],
)
def test_a_wrong_bit_on_one_device_stops_the_run_before_it_is_saved(tmp_path, overrides, at):
    command = launching.search(tmp_path / "run", "checkpoint.every_steps=2", *overrides)
    command = [sys.executable, "-c", FAULTY, *command[command.index("search") :]]
    with launching.Plain(tmp_path / "said", [command] * 2, TWO) as run:
        codes = run.codes(120)
        said = [run.said(number) for number in range(2)]
    assert codes == [4, 4], said
    for one in said:
        assert f"differ at step {at} on device " in one and "of process 1 (params" in one
        assert "last good: checkpoint of step 4" in one and "Traceback" not in one
    assert launching.newest(tmp_path / "run") == 4
    assert not (tmp_path / "run" / "result.json").exists()


def test_copies_stay_equal_at_every_step_of_a_search(tmp_path):
    command = launching.search(
        tmp_path / "run",
        "debug.replicas_every_steps=1",
        "seeds.count=2",
        "mesh.seed=1",
    )
    with launching.Plain(tmp_path / "said", [command] * 2, TWO) as run:
        assert run.codes(120) == [0, 0], run.said(0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["devices"]["mesh"] == {"seed": 1, "data": 4}
