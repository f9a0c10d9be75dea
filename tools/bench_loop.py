"""What a run adds to the steps of its programs: data, metrics, logs, signals, clocks.

The sides take turns: a whole run of one epoch in a folder of its own, with its log and TensorBoard
files, and the same programs called on batches that lie on the device already, each step waited for
one step late, as a run does.
"""

import contextlib
import statistics
import sys
import tempfile
import time

STEPS = 400
WARM = 20  # first steps of a turn, which do not count
CONFIG = (
    *("data.kind=sample", "data.global_batch=64", "seeds.count=1", "method.hypergradient=first"),
    *("network.channels=4", "network.layers=3", "network.stem=imagenet", "evaluation.examples=32"),
    *("schedule.epochs=1", f"schedule.steps_per_epoch={STEPS}", "log.every_steps=10"),
    f"checkpoint.every_steps={STEPS}",
)


def bench_loop(args):
    """What a run adds to the steps of its programs, at steps of about 20 ms."""
    from darts_dist import cluster
    from darts_dist import config as configs
    from darts_dist.bilevel import Search
    from darts_dist.data import sources

    cluster.start(platform="cpu", cpu_devices=1)
    config = configs.parse("", "the bench", overrides=CONFIG)
    task = Search(config, sources.load(config, "train"))
    task.compile()
    rows = {"run": [], "bare": []}
    for turn in range(args.repeats):
        run, bare = _run(config), _bare(task)
        print(f"turn {turn}: run {1000 * run:.3f} ms, bare {1000 * bare:.3f} ms", file=sys.stderr)
        rows["run"].append(run)
        rows["bare"].append(bare)
    shares = sorted(run / bare - 1 for run, bare in zip(*rows.values(), strict=True))
    found = {f"{name}_ms": round(1000 * statistics.median(own), 3) for name, own in rows.items()}
    percent = (statistics.median(shares), shares[0], shares[-1])
    names = ("adds_percent", "least_percent", "most_percent")
    return {"loop": found | {k: round(100 * v, 2) for k, v in zip(names, percent, strict=True)}}


def _run(config):
    """Returns the median seconds of a step of a run, as its result has it."""
    from darts_dist import search

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        return search.run(config, folder, debug=False)["timings"]["step_ms_median"] / 1000


def _bare(task):
    """Returns the median seconds of a step of the same programs alone."""
    import jax

    states, feed = task.init(), task.batches()
    placed = [task.programs.place_batches(next(feed)) for _ in range(8)]
    feed.close()
    before, times = None, []
    for at in range(STEPS):
        began = time.perf_counter()
        states, metrics = task.programs(states, placed[at % len(placed)], task.rate(0))
        jax.block_until_ready(before)
        before = metrics
        times.append(time.perf_counter() - began)
    return statistics.median(times[WARM:])
