"""The reader of optimised HLO: each spelling by hand, then programs that XLA has just compiled."""

import collections

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from darts_dist import cluster, hlo

ROWS, COLUMNS = ((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 4), (1, 5), (2, 6), (3, 7))
EVERYBODY = (tuple(range(8)),)
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7))
MESH = {"seed": 2, "data": 4}
SPELLINGS = {
    "{{0,1,2,3},{4,5,6,7}}": ROWS,
    "{{0},{1}}": ((0,), (1,)),
    "{}": EVERYBODY,
    "[2,4]<=[8]": ROWS,
    "[1,8]<=[8]": EVERYBODY,
    "[4,2]<=[2,4]T(1,0)": COLUMNS,
    "[4,2]<=[2,2,2]T(0,2,1)": ((0, 2), (1, 3), (4, 6), (5, 7)),
    "mesh['seed'=2,'data'=4] {'data'}": ROWS,
    "mesh[seed=2,data=4] {seed}": COLUMNS,
    "mesh['a'=2,'b'=4,'c'=1] {'b','c'}": ROWS,
    "mesh['a'=2,'b'=4] {'b','a'}": ((0, 4, 1, 5, 2, 6, 3, 7),),
    "mesh['a'=2,'b'=4] {}": tuple((at,) for at in range(8)),
    "mesh['data'=4,'seed'=2], device_ids=([2,4]T(1,0)) {'data'}": ROWS,
    "mesh['a'=4,'b'=2], device_ids=([2,2,2]T(0,2,1)) {'a':(2)2}": PAIRS,
    "mesh['a'=8] {'a':(1)2}": COLUMNS,
    "mesh['a'=8] {'a':(2)2}": ((0, 2), (1, 3), (4, 6), (5, 7)),
    "mesh['a'=8] {'a':(4)2}": PAIRS,
    "mesh['a'=8] {'a':(1)2,'a':(4)2}": ((0, 1, 4, 5), (2, 3, 6, 7)),
    "mesh['a'=2,'b'=4], device_ids=(7,6,5,4,3,2,1,0) {'a'}": ((7, 3), (6, 2), (5, 1), (4, 0)),
}
UNREAD = (
    "mine[8]",
    "[2,4]<=[8]T(0)x",
    "[2,4]<=(8)",
    "[3,4]<=[8]",
    "[2,2,2]<=[8]",
    "{{0,1},{2,a}}",
    "{0,1}",
    "{{0,8}}",
    "[2,8]<=[16]",
    "maximal_mesh[device_id=3] {}",
    "mesh['a'=8] {'b'}",
    "mesh['a'=8] {'a':(1)3}",
    "mesh['a'=8] {'a'?}",
    "mesh['a'=8], device_ids=8..0 {'a'}",
)


def program(line, inner=""):
    """A program for 8 devices whose entry is one instruction on `%x`."""
    return f"""HloModule jit_f, is_scheduled=true, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b), metadata={{op_name="not an all-reduce(%x)"}}
}}
{inner}
ENTRY %main (x: f32[4,2]) -> f32[4,2] {{
  %x = f32[4,2]{{1,0}} parameter(0)
  ROOT %y = {line}, metadata={{op_name="x, replica_groups={{}}"}}
}}
"""


def reduction(groups, more="channel_id=1, use_global_device_ids=true, "):
    return program(f"f32[4,2]{{1,0}} all-reduce(%x), replica_groups={groups}, {more}to_apply=%sum")


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_a_spelling_of_groups_is_read(spelled):
    (found,) = hlo.collectives(reduction(spelled))
    assert found == hlo.Collective("all-reduce", 8, 32, SPELLINGS[spelled], 1)


@pytest.mark.parametrize("spelled", UNREAD)
def test_a_spelling_of_groups_that_is_not_known_is_an_error(spelled):
    with pytest.raises(ValueError):
        hlo.collectives(reduction(spelled))


def test_a_collective_without_groups_is_an_error():
    text = program("f32[4,2]{1,0} all-to-some(%x), to_apply=%sum")
    with pytest.raises(ValueError, match="not read"):
        hlo.collectives(text)


def test_groups_of_replicas_bring_all_their_partitions():
    (found,) = hlo.collectives(reduction("{{0}}", "channel_id=1, "))
    assert found.groups == EVERYBODY


@pytest.mark.parametrize(
    "line, elements, size, groups",
    [
        ("f32[4,2] collective-permute(%x), source_target_pairs={{0,1},{2,3}}", 8, 32, PAIRS[:2]),
        ("f32[8]{0:T(8)S(1)} all-gather(%x), replica_groups=[4,2]<=[8]", 8, 32, PAIRS),
        ("(f32[4,2], bf16[3]) all-reduce-start(%x), replica_groups={}", 11, 38, EVERYBODY),
        ("(f32[4,2]{1,0}, s4[8,3]) all-gather-start(%x), replica_groups={}", 24, 12, EVERYBODY),
        (
            "((f32[4,2], f32[2]), (pred[2,3]{1,0}, f32[]), s32[]) all-to-all-start(%x, /*index=1*/"
            "%x), replica_groups=[2,4]<=[8]",
            7,
            10,
            ROWS,
        ),
    ],
)
def test_the_result_of_a_collective_is_measured_in_both_its_forms(line, elements, size, groups):
    (found,) = hlo.collectives(program(line))
    assert (found.elements, found.bytes, found.groups) == (elements, size, groups)


@pytest.mark.parametrize("half", ["done", "update"])
def test_the_other_halves_of_a_collective_are_not_counted_again(half):
    text = program(f"f32[4,2] all-reduce-{half}(%x)")
    assert not hlo.collectives(text) and not hlo.kernels(text).total


def test_what_is_sent_to_a_device_that_is_not_known_is_an_error():
    line = "(f32[4,2], u32[], token[]) send(%x, %x), channel_id=1"
    with pytest.raises(ValueError, match="send"):
        hlo.collectives(program(line))
    assert not hlo.collectives(program(f"{line}, is_host_transfer=true"))


INNER = """
%fused (p: f32[4,2]) -> f32[4,2] {
  %p = f32[4,2]{1,0} parameter(0)
  %q = f32[4,2]{1,0} multiply(%p, %p)
  ROOT %r = f32[4,2]{1,0} all-reduce(%q), replica_groups=[2,4]<=[8], to_apply=%sum
}

%body (s: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %s = (s32[], f32[4,2]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %v = f32[4,2]{1,0} get-tuple-element(%s), index=1
  %w = f32[4,2]{1,0} fusion(%v), kind=kLoop, calls=%fused, control-predecessors={%v}
  %one = s32[] constant(1)
  %j = s32[] add(%i, %one)
  ROOT %t = (s32[], f32[4,2]{1,0}) tuple(%j, %w)
}

%condition (s: (s32[], f32[4,2])) -> pred[] {
  %s.1 = (s32[], f32[4,2]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %n), direction=LT
}

%short (p: f32[4,2]) -> f32[4,2] {
  ROOT %p.1 = f32[4,2]{1,0} parameter(0)
}

%long (p: f32[4,2]) -> f32[4,2] {
  %p.2 = f32[4,2]{1,0} parameter(0)
  %c.1 = f32[4,2]{0,1} copy(%p.2)
  ROOT %c.2 = f32[4,2]{1,0} custom-call(%c.1), custom_call_target="a(b"
}
"""


def test_a_fusion_is_one_kernel_and_its_collectives_are_seen():
    text = program("f32[4,2]{1,0} fusion(%x), kind=kLoop, calls=%fused", INNER)
    assert hlo.kernels(text).counts == {"fusion": 1}
    assert [found.groups for found in hlo.collectives(text)] == [ROWS]


def test_a_loop_counts_as_often_as_it_is_said_to_go_round():
    loop = "(s32[], f32[4,2]{1,0}) while(%x), condition=%condition, body=%body"
    for stated in (
        'backend_config={"known_trip_count":{"n":"5"}}',
        'backend_config="{\\"known_trip_count\\":{\\"n\\":\\"5\\"}}"',
    ):
        text = program(f"{loop}, {stated}", INNER)
        assert hlo.kernels(text) == hlo.Kernels({"fusion": 5, "add": 5}, 3, ())
        assert [found.times for found in hlo.collectives(text)] == [5]
    text = program(loop, INNER)
    assert hlo.kernels(text) == hlo.Kernels({"fusion": 1, "add": 1, "compare": 1}, 3, ("y",))
    assert [found.times for found in hlo.collectives(text)] == [1]


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("f32[4,2]{1,0} fusion(%x), kind=kLoop, calls=%fused", 32),
        ("f32[4,2]{1,0} bitcast(%x)", 0),
        ("(f32[4,2]{1,0}, u8[33554432]{0}) custom-call(%x)", 32),
        ("f32[4,2]{1,0} call(%x), to_apply=%long", 64),
        ("f32[4,2]{1,0} conditional(%x, %x, %x), branch_computations={%short, %long}", 64),
    ],
)
def test_what_kernels_write_is_their_results(line, size):
    assert hlo.written(program(line, INNER)) == size


def test_what_a_loop_writes_counts_as_often_as_it_goes_round():
    loop = "(s32[], f32[4,2]{1,0}) while(%x), condition=%condition, body=%body"
    text = program(f'{loop}, backend_config={{"known_trip_count":{{"n":"5"}}}}', INNER)
    assert hlo.written(text) == 5 * (32 + 4 + 1)  # the sum, the count, the comparison


COUNT = """
%up (s: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %s.2 = (s32[], f32[4,2]{1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%s.2), index=0
  %c.2 = s32[] copy(%i.2)
  %two = s32[] constant(STEP)
  %k = s32[] add(%c.2, %two)
  %v.2 = f32[4,2]{1,0} get-tuple-element(%s.2), index=1
  ROOT %t.2 = (s32[], f32[4,2]{1,0}) tuple(%k, %v.2)
}

%counts (p: f32[4,2]) -> (s32[], f32[4,2]) {
  %p.2 = f32[4,2]{1,0} parameter(0)
  %none = s32[] constant(0)
  %first = s32[] copy(%none)
  %all = (s32[], f32[4,2]{1,0}) tuple(%first, %p.2)
  ROOT %loop = (s32[], f32[4,2]{1,0}) while(%all), condition=%condition, body=%up
}
"""


@pytest.mark.parametrize(
    ("step", "limit", "test", "trips"),
    [("1", "5", "LT", 5), ("2", "5", "LT", 3), ("1", "0", "LT", 0), ("1", "5", "LE", None)],
)
def test_a_loop_that_counts_up_to_a_constant_is_counted(step, limit, test, trips):
    inner = (INNER + COUNT.replace("STEP", step)).replace("constant(5)", f"constant({limit})")
    inner = inner.replace("direction=LT", f"direction={test}")
    found = hlo.kernels(program("(s32[], f32[4,2]{1,0}) call(%x), to_apply=%counts", inner))
    assert found.unknown_loops == (() if trips is not None else ("loop",))
    assert found.counts.get("add", 0) == (1 if trips is None else trips)


def test_of_what_is_changed_in_place_the_change_is_written():
    slot = """
%put (a: f32[4,2], b: f32[1,2], i: s32[]) -> (f32[4,2], f32[1,2]) {
  %whole = f32[4,2]{1,0} parameter(0)
  %row = f32[1,2]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %put.1 = f32[4,2]{1,0} dynamic-update-slice(%whole, %row, %at, %at)
  ROOT %both = (f32[4,2]{1,0}, f32[1,2]{1,0}) tuple(%put.1, %row)
}
"""
    call = "(f32[4,2]{1,0}, f32[1,2]{1,0}) fusion(%x, %x, %x), kind=kLoop, calls=%put"
    assert hlo.written(program(call, slot)) == 2 * 8


@pytest.mark.parametrize(
    "branches",
    [
        "branch_computations={%short, %long}",
        "true_computation=%long, false_computation=%short",
    ],
)
def test_the_longest_branch_counts(branches):
    text = program(f"f32[4,2]{{1,0}} conditional(%x, %x, %x), {branches}", INNER)
    assert hlo.kernels(text).counts == {"copy": 1, "custom-call": 1}


@pytest.mark.parametrize("opcode", ["call(%x), to_apply", "async-start(%x), calls"])
def test_what_is_called_counts(opcode):
    text = program(f"f32[4,2]{{1,0}} {opcode}=%long", INNER)
    assert hlo.kernels(text).counts == {"copy": 1, "custom-call": 1}


@pytest.mark.parametrize(
    "text, problem",
    [
        ("ENTRY %main () -> f32[] {\n}\n", "HloModule"),
        ("HloModule jit_f, num_partitions=4, replica_count=2\n", "ambiguous"),
        ("HloModule jit_f\n", "not there"),
        (program("f32[4,2] call(%x), to_apply=%gone"), "gone"),
        (program("f32[4,2] negate %x"), "not an instruction"),
        (program("f32[4,2] negate(%x"), "not closed"),
    ],
)
def test_a_text_that_is_not_understood_is_an_error(text, problem):
    with pytest.raises(ValueError, match=problem):
        hlo.kernels(text)


def test_axes_are_those_along_which_members_of_a_group_differ():
    assert hlo.axes_spanned(ROWS, MESH) == ("data",)
    assert hlo.axes_spanned(COLUMNS, MESH) == ("seed",)
    assert hlo.axes_spanned(EVERYBODY, MESH) == ("seed", "data")
    assert hlo.axes_spanned(((0,), (1,)), MESH) == ()
    assert hlo.axes_spanned(((0, 1), (0, 4)), MESH) == ("seed", "data")
    with pytest.raises(ValueError):
        hlo.axes_spanned(((0, 8),), MESH)


# Compiled programs.


@pytest.fixture(scope="module")
def mesh():
    return cluster.make_mesh(2, 2, 4)


def compiled(mesh, body, *, out):
    wide = PartitionSpec(("seed", "data"))
    mapped = jax.shard_map(body, mesh=mesh, in_specs=wide, out_specs=out)
    return jax.jit(mapped).lower(jax.ShapeDtypeStruct((16, 4), jnp.float32)).compile().as_text()


@pytest.mark.parametrize("axes", [("data",), ("seed",), ("seed", "data")])
def test_a_sum_over_axes_spans_these_axes(mesh, axes):
    rest = tuple(axis for axis in MESH if axis not in axes)
    text = compiled(mesh, lambda x: jax.lax.psum(x, axes), out=PartitionSpec(rest))
    (found,) = hlo.collectives(text)
    assert hlo.axes_spanned(found.groups, mesh.shape) == axes
    assert (found.kind, found.elements, found.bytes) == ("all-reduce", 8, 32)


def test_a_permutation_spans_the_axis_that_it_goes_along(mesh):
    ring = [(at, (at + 1) % 4) for at in range(4)]
    out = PartitionSpec(("seed", "data"))
    text = compiled(mesh, lambda x: jax.lax.ppermute(x, "data", ring), out=out)
    (found,) = hlo.collectives(text)
    assert found.kind == "collective-permute" and len(found.groups) == 8
    assert hlo.axes_spanned(found.groups, mesh.shape) == ("data",)


@pytest.mark.parametrize("axes", [("data",), ("seed",), ("seed", "data"), ("data", "seed")])
def test_sums_that_the_partitioner_makes_are_read(axes):
    mesh = jax.make_mesh((2, 4), ("seed", "data"), axis_types=(AxisType.Auto,) * 2)
    run = jax.jit(jnp.sum, in_shardings=NamedSharding(mesh, PartitionSpec(axes)))
    text = run.lower(jax.ShapeDtypeStruct((16, 4), jnp.float32)).compile().as_text()
    (found,) = hlo.collectives(text)
    assert set(hlo.axes_spanned(found.groups, mesh.shape)) == set(axes)


def test_a_map_counts_its_body_for_each_row():
    def once(row):
        return jnp.sort(jnp.sin(row))

    rows = jax.ShapeDtypeStruct((6, 32), jnp.float32)
    mapped = jax.jit(lambda x: jax.lax.map(once, x)).lower(rows).compile().as_text()
    found = hlo.kernels(mapped)
    assert found.counts["sort"] == 6 and not found.unknown_loops
    assert found.compiled < found.total


def test_a_loop_whose_length_only_the_data_know_is_named():
    def run(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, jnp.sort, x)

    text = jax.jit(run).lower(jax.ShapeDtypeStruct((32,), jnp.float32)).compile().as_text()
    found = hlo.kernels(text)
    assert found.counts["sort"] == 1 and len(found.unknown_loops) == 1


def test_all_kernels_of_a_program_are_counted():
    def run(x):
        return jnp.sort(x @ x.T), jnp.cumsum(x, 0)

    text = jax.jit(run).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32)).compile().as_text()
    found, lines = hlo.kernels(text), collections.Counter()
    entry = text[text.index("ENTRY") :]
    for kind in found.counts:
        lines[kind] = entry.count(f" {kind}(")
    assert found.counts == lines and found.compiled == found.total == lines.total() >= 3
