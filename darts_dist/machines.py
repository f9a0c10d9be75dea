"""Machines that a plan knows by name: what their makers publish of them, and `cpu`, this one.

Place: layer 0; names and figures, no jax. A topology is KIND:SHAPE: `cpu:8`, `h100:8`, `v5e:16x16`.
"""

import dataclasses
import math
import os
import re
import time
from collections.abc import Mapping

import numpy as np

from darts_dist.errors import InputError

GPUS_OF_A_HOST = 8
PASSES = {"float32": 6, "tensorfloat32": 3, "default": 1}
"""Products of bfloat16 that a TPU makes one of float32 from, by precision.matmul (XLA's HIGHEST,
HIGH and DEFAULT)."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """A kind of device: bytes of its memory, bytes/s to it, and FLOP/s by number format.

    ring: bytes/s of one device into a ring of all-reduce within a host or slice, both directions
    together where a link has two.  beyond: the same between hosts; None: there is none.
    source: of the figures.
    """

    kind: str
    platform: str
    memory_bytes: float
    bytes_per_s: float
    flops_per_s: Mapping[str, float]
    ring: float
    beyond: float | None
    source: str


def _tpu(kind: str, memory: float, rate: float, peak: float, links: int, both: float) -> Machine:
    """A TPU by its published figures: GB, GB/s, TFLOP/s of bfloat16, links and GB/s of them all."""
    peaks = {name: peak * 1e12 / passes for name, passes in PASSES.items()}
    return Machine(
        kind,
        "tpu",
        memory * 1e9,
        rate * 1e9,
        {"bfloat16": peak * 1e12, **peaks},
        ring=both * 1e9 / links,  # a link is both ways; the two of one axis carry a ring each
        beyond=None,
        source=f"cloud.google.com/tpu/docs/{kind}",
    )


H100 = Machine(
    "h100",
    "cuda",
    80e9,
    3.35e12,
    {
        "bfloat16": 989e12,
        "float32": 67e12,
        "tensorfloat32": 494.5e12,
        "default": 494.5e12,
        "float64": 67e12,
    },
    ring=450e9,
    beyond=50e9,  # a network card of 400 Gb/s for each GPU
    source="NVIDIA's data sheet of the H100 SXM: dense products; NVLink 900 GB/s, one way half",
)
TPUS = (
    _tpu("v5e", 16, 819, 197, links=4, both=400),
    _tpu("v5p", 95, 2765, 459, links=6, both=1200),
    _tpu("v6e", 32, 1600, 918, links=4, both=800),
)
PUBLISHED = {machine.kind: machine for machine in (H100, *TPUS)}
KINDS = ("cpu", *PUBLISHED)


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices by name: text as given, kind, sides of their grid, how many they are."""

    text: str
    kind: str
    sides: tuple[int, ...]
    count: int

    @property
    def platform(self) -> str:
        """What jax calls it."""
        return "cpu" if self.kind == "cpu" else PUBLISHED[self.kind].platform


FORMS = "cpu:8, h100:8, v5e:16x16, v5p:4x4x4, v6e:16x16"


def parse(text: str) -> Topology:
    """Returns the topology of a name; InputError that says what is known for one that is none."""
    if not text:
        raise InputError(f"no topology; wanted topology=KIND:SHAPE, such as {FORMS}")
    kind, _, shape = text.partition(":")
    if not kind:
        raise InputError(f"topology={text} has no kind; wanted KIND:SHAPE, such as {FORMS}")
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise InputError(f"topology={text}: {kind} is unknown; known are {known}, as in {FORMS}")
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,3}){0,2}", shape):
        raise InputError(f"topology={text} has no shape; wanted such as {FORMS}")
    sides = tuple(map(int, shape.split("x")))
    count = math.prod(sides)
    if kind in ("cpu", "h100") and len(sides) > 1:
        raise InputError(f"topology={text}: {kind} has no sides; wanted {kind}:{count}")
    if kind == "h100" and count > GPUS_OF_A_HOST and count % GPUS_OF_A_HOST:
        raise InputError(
            f"topology={text}: a host has {GPUS_OF_A_HOST}; wanted a multiple of that, or less"
        )
    dimensions = {"v5e": 2, "v6e": 2, "v5p": 3}.get(kind, 1)
    if len(sides) != dimensions:
        example = "x".join("4" * dimensions)
        raise InputError(f"topology={text}: {kind} has {dimensions} sides; wanted {kind}:{example}")
    if count > 65536:
        raise InputError(f"topology={text} has {count} devices; wanted 65536 at most")
    return Topology(text, kind, sides, count)


def machine_of(topology: Topology) -> Machine:
    """Returns what is known of the topology's devices; `cpu` is measured here, in half a second.

    The devices of a CPU share it: each is given an equal part of memory, bytes/s and FLOP/s.
    """
    if topology.kind != "cpu":
        return PUBLISHED[topology.kind]
    count = topology.count
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rate = _bytes_per_s()
    peaks = {name: _flops_per_s(name) / count for name in ("float32", "float64")}
    whole = {name: peaks["float32"] for name in ("tensorfloat32", "default", "bfloat16")}
    return Machine(
        "cpu",
        "cpu",
        memory / count,
        rate / count,
        {**peaks, **whole},
        ring=rate / count,
        beyond=None,
        source=f"measured here, on {os.cpu_count()} cores that {count} devices share",
    )


def _fastest(run) -> float:
    """Seconds of the fastest of five calls."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def _flops_per_s(dtype: str) -> float:
    """FLOP/s of a product of large matrices."""
    side = 768
    left = np.ones((side, side), dtype)
    return 2 * side**3 / _fastest(lambda: left @ left)


def _bytes_per_s() -> float:
    """Bytes/s read and written in copying what no cache holds."""
    there = np.ones(2**24, np.float64)
    here = np.empty_like(there)
    return 2 * there.nbytes / _fastest(lambda: np.copyto(here, there))
