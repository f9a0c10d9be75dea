"""The watchdog in processes of its own: whom it ends, and whom it does not."""

import signal
import subprocess
import sys
import time

import pytest

START = """
import os, sys, time
from darts_dist.watchdog import Limits, Watchdog, catch_aborts
print("here", flush=True)
"""


def started(program):
    process = subprocess.Popen(
        [sys.executable, "-c", START + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


def run(program):
    """Returns the exit code, what was said on stderr, and the seconds from the start on."""
    with started(program) as process:
        began = time.monotonic()
        try:
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, said, time.monotonic() - began


@pytest.mark.parametrize(
    ("phase", "what", "knob"),
    [
        ("join", "the other processes have not come", "cluster.initialization_timeout_s"),
        ("evaluation", "an evaluation has not ended", "cluster.evaluation_timeout_s"),
        ("save", "saving has not ended", "cluster.save_timeout_s"),
        ("meet", "a peer has not come as far", "cluster.step_timeout_s"),
    ],
)
def test_a_phase_that_takes_too_long_ends_the_process_with_one_line(phase, what, knob):
    limits = "join=1, evaluation=1, save=1, step=1"
    code, said, wall_s = run(f"Watchdog(Limits({limits})).enter('{phase}'); time.sleep(60)")
    assert code == 4
    assert said.startswith(f"darts-dist: error: stalled: {what}")
    assert knob in said
    assert said.count("\n") == 1
    assert 0.9 < wall_s < 5


LOOP = """
watch = Watchdog(Limits(compile=2, step=0.5, save=3, factor=FACTOR))
watch.enter("compile")
for word in WORDS.split():
    phase, _, wait_s = word.partition(":")
    watch.enter(phase)
    time.sleep(float(wait_s or 0))
"""


def loop(words, factor=1):
    """Returns the exit code and what was said by a run of phases, each with its seconds."""
    return run(LOOP.replace("WORDS", repr(words)).replace("FACTOR", str(factor)))[:2]


def test_a_step_is_watched_after_the_first_two():
    assert loop("step:0.8 step:0.8 step step:0.2")[0] == 0
    code, said = loop("step step step step:60")
    assert (code, "a step has not ended within 0.5 s" in said) == (4, True)


def test_the_first_two_steps_belong_to_compiling():
    code, said = loop("step:1.2 step:60")
    assert (code, "compiling and the first steps have not ended within 2 s" in said) == (4, True)


def test_a_slow_run_is_given_a_multiple_of_its_slowest_step():
    assert loop("step:0.8 step step step:2.2", factor=4)[0] == 0
    assert loop("step:0.8 step step step:60", factor=2)[0] == 4


def test_a_meeting_is_given_the_time_of_the_steps_since_the_last_one():
    steps = "step:0.3 " * 8
    assert loop(f"step step step meet {steps} meet:1.6")[0] == 0
    assert loop(f"step step step {steps} meet meet:1.6")[0] == 4


def test_a_step_may_wait_for_a_peer_that_still_saves():
    assert loop("step step step meet step save step:2.5")[0] == 0
    assert loop("step step step meet step save step step:2.5")[0] == 4
    assert loop("step step step meet step save step step meet:2.5")[0] == 0


@pytest.mark.parametrize("setting", ["Limits(save=0)", "Limits(save=1), on=False"])
def test_without_a_limit_it_never_ends_a_process(setting):
    assert run(f"Watchdog({setting}).enter('save'); time.sleep(2)")[0] == 0


def test_a_closed_watchdog_ends_nothing():
    program = "watch = Watchdog(Limits(save=1)); watch.enter('save'); watch.close(); time.sleep(2)"
    assert run(program)[0] == 0


def test_to_be_paused_as_a_whole_is_no_stall():
    with started("Watchdog(Limits(save=2)).enter('save'); time.sleep(1)") as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        assert process.wait(10) == 0


def test_an_abort_below_python_ends_with_the_code_of_a_failed_cluster():
    program = """
import ctypes, threading
catch_aborts()
threading.Thread(target=ctypes.CDLL(None).abort).start()
time.sleep(60)
"""
    code, said, wall_s = run(program)
    assert code == 4
    assert said.startswith("darts-dist: error: the cluster failed")
    assert wall_s < 5
    assert run(program.replace("catch_aborts()", ""))[0] == -signal.SIGABRT


def test_limits_are_those_of_the_config():
    from darts_dist import config, opening

    knobs = {"compile": 11, "step": 12, "evaluation": 13, "save": 14}
    changes = [f"cluster.{name}_timeout_s={value}" for name, value in knobs.items()]
    limits = opening.limits(config.load(None, [*changes, "cluster.step_timeout_factor=3"]))
    assert {name: getattr(limits, name) for name in knobs} == knobs
    assert limits.factor == 3
