"""What a compiled program says of itself: kernels, collectives, FLOPs, bytes, memory.

Place: layer 0, over `hlo`.
"""

import dataclasses
from typing import Any

from darts_dist import hlo


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Of one device and one run; memory in bytes.

    flops, moved: as the compiler counts them, 0 where it does not.  written: bytes of all kernels'
    results.  alias: bytes of the output that lie where arguments were.
    """

    kernels: hlo.Kernels
    collectives: list[hlo.Collective]
    flops: float
    moved: float
    written: int
    temp: int
    arguments: int
    output: int
    alias: int


def read(executable: Any) -> Compiled:
    """Returns what an executable of `jax.jit(...).lower(...).compile()` tells."""
    text, memory = executable.as_text(), executable.memory_analysis()
    cost = executable.cost_analysis() or {}
    return Compiled(
        hlo.kernels(text),
        hlo.collectives(text),
        max(cost.get("flops", 0), 0),
        max(cost.get("bytes accessed", 0), 0),
        hlo.written(text),
        memory.temp_size_in_bytes,
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
    )
