"""XLA's flags: which are added, and for whom they are not."""

import os

import pytest

from darts_dist import machines, topology, xla_flags

PASSES = "--xla_disable_hlo_passes=cse_barrier_expander,tree_reduction_rewriter"


@pytest.fixture
def flags(monkeypatch):
    """The flags of a process before jax starts, as a function of what is in the environment."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("JAX_PLATFORMS", "")

    def found(platform="", recurrent=False, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        xla_flags.use_cpu(platform=platform, recurrent=recurrent)
        return os.environ["XLA_FLAGS"].split()

    return found


def test_passes_are_left_out_where_the_cpu_is_alone(flags):
    assert PASSES in flags("cpu")


def test_sums_of_a_recurrent_network_are_split(flags):
    assert "--xla_disable_hlo_passes=cse_barrier_expander" in flags("cpu", recurrent=True)


@pytest.mark.parametrize("platforms", ("cuda", "cuda,cpu", "tpu"))
def test_compilers_of_other_platforms_keep_all_passes(flags, platforms):
    assert not any("passes" in flag for flag in flags("cpu", JAX_PLATFORMS=platforms))


def test_compilers_for_devices_that_are_not_here_keep_all_passes(flags, monkeypatch):
    monkeypatch.setattr(topology, "_installed", lambda module: True)
    topology.set_environment(machines.parse("h100:1"))
    assert PASSES not in flags("cpu")


def test_a_flag_of_the_user_stays(flags):
    own = "--xla_disable_hlo_passes=none"
    assert [flag for flag in flags("cpu", XLA_FLAGS=own) if "passes" in flag] == [own]
