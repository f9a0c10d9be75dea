"""What the devices of a search tell each other, read off the compiled programs of a step."""

import functools

import pytest
import small_search as small

from darts_dist import hlo

pytestmark = pytest.mark.medium

SIZES = (
    "seeds.count=2",
    "mesh.seed=2",
    "mesh.data=4",
    "network.layers=1",
    "precision.compute=float32",
)
KINDS = [("first", "state"), ("exact", "state"), ("exact", "batch")]
NORMS = 4  # reductions of moments: stem, a cell's inputs, first halves of separables, all the rest


@functools.cache
def compiled(hypergradient, sync):
    """The step, {program: its collectives} and {program: how often a step runs it}."""
    step = small.search(*SIZES, f"method.hypergradient={hypergradient}", f"batch_norm.sync={sync}")
    step.compile((small.PX, small.PX, 3))
    calls = {name: program.uses for name, program in step.programs.items()}
    del calls["init"], calls["evaluate"]  # traced along, no part of a step
    texts = {name: program.executable.as_text() for name, program in step.programs.items()}
    return step, {name: hlo.collectives(text) for name, text in texts.items()}, calls


def reductions(hypergradient, sync):
    """All-reduces of one step."""
    _, found, calls = compiled(hypergradient, sync)
    return sum(calls[name] * one.times for name in calls for one in found[name])


@pytest.mark.parametrize("hypergradient, sync", KINDS)
def test_no_program_speaks_across_seeds(hypergradient, sync):
    step, found, _ = compiled(hypergradient, sync)
    assert step.mesh.shape == {"seed": 2, "data": 4}
    for name, every in found.items():
        for one in every:
            assert one.kind == "all-reduce", name
            assert hlo.axes_spanned(one.groups, step.mesh.shape) == ("data",), name


@pytest.mark.parametrize("hypergradient, expected", [("first", 2), ("exact", 4)])
def test_a_step_with_own_statistics_reduces_once_a_pass(hypergradient, expected):
    assert reductions(hypergradient, "state") == expected


@pytest.mark.parametrize("hypergradient", ["first", "exact"])
def test_a_gradient_and_all_that_goes_with_it_is_one_reduction(hypergradient):
    step, found, calls = compiled(hypergradient, "state")
    for name, every in found.items():
        assert len(every) <= 1, name
    passes = [name for name in calls if found[name]]
    assert set(passes) == {n for n in step.programs if n.startswith(("gradient", "product"))}


def test_statistics_of_the_whole_batch_cost_two_reductions_a_norm_and_pass():
    assert reductions("exact", "batch") > reductions("exact", "state")
    _, found, _ = compiled("exact", "batch")
    assert 1 + NORMS < len(found["gradient_both"]) <= 1 + 2 * NORMS
