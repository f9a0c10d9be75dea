"""The one loop: resume, step, log, evaluate, save, leave together.
It knows neither networks nor what is searched.
"""

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

import jax

from darts_dist import cluster
from darts_dist.errors import Interrupted
from darts_dist.watchdog import Watchdog

part = jax.profiler.TraceAnnotation  # tells a profile (`profiling`) where the loop is


@dataclasses.dataclass(frozen=True)
class Work:
    """What a run does at each point of the loop; `done` counts the steps taken so far.

    feed(done) -> iterator of this process's batches from that step on.  advance(state, batch,
    done) -> (state, metrics of global arrays) dispatches one step.  report(done, metrics, step_s)
    gets an earlier step's metrics, fetched.  before(done, state) is called ahead of each step.
    end_epoch(epoch, state) -> state, epoch counted from 0.  save(done, state) starts a
    checkpoint; flush() completes it.
    """

    feed: Callable[[int], Any]
    advance: Callable[[Any, Any, int], tuple[Any, Any]]
    report: Callable[[int, Any, float], None]
    before: Callable[[int, Any], None]
    end_epoch: Callable[[int, Any], Any]
    save: Callable[[int, Any], None]
    flush: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Pace:
    """How often things happen, in steps."""

    total: int
    epoch: int
    log: int
    save: int


def fit(
    state: Any,
    start: int,
    work: Work,
    pace: Pace,
    preemption: cluster.Preemption,
    watch: Watchdog,
):
    """Returns (state, seconds of each step) after steps start..pace.total-1.

    At most one step is in flight while the next is prepared: metrics are fetched a step late,
    and a signal is answered within two steps.  Raises Interrupted, with the state saved, when the
    run was told to stop.
    """
    times: list[float] = []
    saved = start
    before: Any = None  # metrics of the step in flight
    began = 0.0
    late: tuple[int, Any] | None = None  # a logged step's metrics, on their way to the host

    def report():
        nonlocal late
        if late is not None:
            done, metrics = late
            late = None
            with part("darts:report"):
                work.report(done, jax.device_get(metrics), times[-1])

    def wait():
        """Waits for the step in flight, if any; its time is that since the step before it ended."""
        nonlocal before, began
        if before is None:
            return
        with part("darts:wait"):
            jax.block_until_ready(before)
        before, now = None, time.perf_counter()
        times.append(now - began)
        began = now

    with contextlib.closing(work.feed(start)) as batches:
        began = time.perf_counter()
        for done in range(start, pace.total):
            if late is None:
                watch.enter("step")
            if preemption.requested(done):
                wait()
                report()
                watch.enter("save")
                if done != saved:
                    work.save(done, state)
                work.flush()
                raise Interrupted(f"stopped at step {done}, and the state is saved")
            work.before(done, state)
            with part("darts:feed"):
                batch = next(batches)
            if _ended(before):  # or the next one's start would count to it
                wait()
            with part("darts:dispatch"):
                state, metrics = work.advance(state, batch, done)
            wait()
            report()
            if done == start:
                gc.collect()
                gc.freeze()  # what start-up made stays; a collection would walk it at every pause
            done += 1
            before = metrics
            if done % pace.epoch == 0 or done == pace.total:
                wait()  # what comes next is no step
            if done % pace.log == 0 or done == pace.total:
                watch.enter("meet")
                late = (done, cluster.gather(metrics))
            if done % pace.epoch == 0:
                report()
                watch.enter("evaluation")
                state = work.end_epoch(done // pace.epoch - 1, state)
                began = time.perf_counter()
            if done % pace.save == 0 or done == pace.total:
                watch.enter("save")
                work.save(done, state)
                saved = done
        report()
    watch.enter("save")
    work.flush()
    return state, times


def _ended(metrics):
    return all(x.is_ready() for x in jax.tree.leaves(metrics))
