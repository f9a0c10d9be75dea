import pytest

from darts_dist import machines, roofline
from darts_dist.errors import InputError
from darts_dist.hlo import Collective


@pytest.mark.parametrize(
    ("text", "count", "platform"),
    [("cpu:64", 64, "cpu"), ("h100:16", 16, "cuda"), ("v5e:16x16", 256, "tpu")],
)
def test_a_topology_is_a_kind_and_a_shape(text, count, platform):
    found = machines.parse(text)
    assert (found.count, found.platform) == (count, platform)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "wanted topology=KIND:SHAPE"),
        ("v9:2x2", "v9 is unknown; known are cpu, h100, v5e"),
        (":8", "topology=:8 has no kind; wanted KIND:SHAPE"),
        ("v5e", "no shape"),
        ("v5e:16", "2 sides"),
        ("v5p:4x4", "3 sides"),
        ("cpu:2x2", "wanted cpu:4"),
        ("cpu:0", "no shape"),
        ("h100:12", "a host has 8"),
        ("v5e:999x999", "65536 at most"),
    ],
)
def test_what_is_no_topology_is_told_with_what_is_known(text, part):
    with pytest.raises(InputError, match=part):
        machines.parse(text)


def reduced(groups, kind="all-reduce", times=1):
    return Collective(kind, 250_000, 1_000_000, groups, times)


def test_an_all_reduce_goes_around_a_ring_twice_but_for_the_own_part():
    seconds = roofline.collective_s(reduced(((0, 1, 2, 3),), times=5), machines.PUBLISHED["v5e"])
    assert seconds == pytest.approx(5 * 2 * 1e6 * 3 / 4 / 100e9)


def test_between_hosts_of_gpus_the_network_counts_and_within_one_nvlink():
    inside, across = ((0, 7), (8, 15)), ((0, 8), (7, 15))
    slow, fast = (
        roofline.collective_s(reduced(groups), machines.H100) for groups in (across, inside)
    )
    assert slow == pytest.approx(9 * fast)


def test_alone_a_device_sends_nothing():
    assert roofline.collective_s(reduced(((0,), (1,))), machines.H100) == 0


def test_an_estimate_is_the_larger_of_flops_and_bytes_and_then_the_collectives():
    machine = machines.PUBLISHED["v5p"]
    reduced_s = roofline.collective_s(reduced(((0, 1),)), machine)
    found = roofline.times(2e9, 2.765e9, reduced_s, machine, peak=1e12)
    assert found.compute_s == pytest.approx(2e-3) and found.memory_s == pytest.approx(1e-3)
    assert found.estimate_s == pytest.approx(2e-3 + 1e6 / 200e9)


def test_a_cpu_is_measured_and_its_devices_share_it():
    one, many = (machines.machine_of(machines.parse(text)) for text in ("cpu:1", "cpu:64"))
    assert one.memory_bytes == pytest.approx(64 * many.memory_bytes)
    assert one.bytes_per_s > many.bytes_per_s and one.flops_per_s["float32"] > 1e8
