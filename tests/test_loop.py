import contextlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist import cluster, loop
from darts_dist.watchdog import Limits, Watchdog

SLOW_S = 0.05


def slow(x):
    time.sleep(SLOW_S)
    return np.asarray(x) + np.float32(1)


@jax.jit
def step(state):
    return jax.pure_callback(slow, jax.ShapeDtypeStruct((), jnp.float32), state)


class Seen:
    """A run's work, and what the loop did with it."""

    def __init__(self):
        self.reports, self.epochs = [], []

    def advance(self, state, batch, done):
        assert batch == done
        state = step(state)
        return state, {"loss": state}

    def report(self, done, metrics, step_s):
        self.reports.append((done, float(metrics["loss"]), step_s))

    def end_epoch(self, epoch, state):
        self.epochs.append((epoch, float(state)))
        return state


def feed(start):
    def batches():
        at = start
        while True:
            yield at
            at += 1

    return batches()


def fit(pace):
    seen = Seen()
    work = loop.Work(
        feed=feed,
        advance=seen.advance,
        report=seen.report,
        before=lambda done, state: None,
        end_epoch=seen.end_epoch,
        save=lambda done, state: None,
        flush=lambda: None,
    )
    watch = Watchdog(Limits(), on=False)
    mesh = cluster.make_mesh(1, 1, 1, jax.devices()[:1])
    first = jax.device_put(jnp.zeros(()), jax.NamedSharding(mesh, jax.P()))
    with contextlib.closing(watch), contextlib.closing(cluster.Preemption()) as preemption:
        state, times = loop.fit(first, 0, work, pace, preemption, watch)
    return float(state), times, seen


def test_a_step_takes_what_its_programs_take_the_first_and_the_last_too():
    for total in (1, 2, 5):
        state, times, _ = fit(loop.Pace(total=total, epoch=2, log=1, save=9))
        assert state == len(times) == total
        assert sum(times) >= total * SLOW_S
        assert times[0] >= SLOW_S  # an end may be noticed late, at the next one's cost


def test_every_logged_step_is_told_with_its_metrics_and_its_time():
    _, times, seen = fit(loop.Pace(total=5, epoch=2, log=1, save=9))
    assert seen.reports == [(at + 1, at + 1.0, times[at]) for at in range(5)]
    assert seen.epochs == [(0, 2.0), (1, 4.0)]
