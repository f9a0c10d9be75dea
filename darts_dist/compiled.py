"""What a compiled program says of itself: kernels, collectives, FLOPs, bytes, memory.

Place: layer 0, over `hlo`.
"""

import dataclasses
from typing import Any

from darts_dist import hlo

LOOPED = 0.1


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Of one device and one run; memory in bytes.

    flops, moved: as the compiler counts them, 0 where it does not.  looped: whether loops, of which
    it counts one round, write more than LOOPED of what is written.  written: bytes that all kernels
    write.  alias: bytes of the output that lie where arguments were.
    """

    kernels: hlo.Kernels
    collectives: list[hlo.Collective]
    flops: float
    moved: float
    looped: bool
    written: int
    temp: int
    arguments: int
    output: int
    alias: int


def read(executable: Any) -> Compiled:
    """Returns what an executable of `jax.jit(...).lower(...).compile()` tells."""
    text, memory = executable.as_text(), executable.memory_analysis()
    cost = executable.cost_analysis() or {}
    written, once = hlo.written(text), hlo.written(text, rounds=False)
    return Compiled(
        hlo.kernels(text),
        hlo.collectives(text),
        max(cost.get("flops", 0), 0),
        max(cost.get("bytes accessed", 0), 0),
        written - once > LOOPED * written,
        written,
        memory.temp_size_in_bytes,
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
    )
