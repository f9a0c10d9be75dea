"""Searches and trainings on texts by the launcher: split over processes they end with the same
bits, a training that goes back to its best weights on the way too."""

import json
import sys

import launching
import pytest

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow, pytest.mark.timeout(900)]
SIZES = (
    "network.channels=4",
    "data.global_batch=8",
    "data.window=5",
    "evaluation.batch=4",
    "evaluation.rows=12",
    "schedule.epochs=2",
    "schedule.steps_per_epoch=4",
    "checkpoint.every_steps=4",
    "seeds.count=2",
    "cluster.heartbeat_timeout_s=10",
)
VERBS = {
    "search": ("search_text_sample", "network.nodes=1", "method.preset=darts_second"),
    "train": (
        "train_text_sample",
        'genotype={"space": "rnn", "recurrent": [["tanh", 0], ["relu", 0]], "concat": [1, 2]}',
        "data.excess=3",
        "data.sizes=[]",
        "weights.learning_rate=1e30",
        "weights.rollback_rate=1e-30",
        "weights.rollbacks=1",
    ),
}


def finish(verb, workdir, processes, devices):
    """Returns the result of a run that is left alone."""
    config, *words = VERBS[verb]
    file = str(launching.ROOT / "configs" / f"{config}.toml")
    run = [sys.executable, "-m", "darts_dist", verb, file, *SIZES, *words, "--workdir"]
    with launching.running(launching.launcher(processes, devices, [*run, str(workdir)])) as one:
        assert one.wait(300) == 0
    return json.loads((workdir / "result.json").read_text())


@pytest.mark.parametrize("verb", VERBS)
def test_two_processes_end_on_texts_as_one_with_all_their_devices(verb, tmp_path):
    alone = finish(verb, tmp_path / "alone", 1, 4)
    split = finish(verb, tmp_path / "split", 2, 2)
    assert split["devices"]["processes"] == 2
    assert split["devices"]["mesh"] == alone["devices"]["mesh"] == {"seed": 2, "data": 2}
    assert split["state_digest"] == alone["state_digest"]
    assert split["seeds"] == alone["seeds"]
    if verb == "train":
        lines = (tmp_path / "split" / "epochs.jsonl").read_text().splitlines()
        assert [json.loads(line)["rollbacks"] for line in lines[-2:]] == [1, 1]
