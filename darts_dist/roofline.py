"""Times that a machine's published rates allow: an estimate, never a measurement.

Place: layer 0; numbers in, seconds out.
"""

import dataclasses

from darts_dist.hlo import Collective
from darts_dist.machines import GPUS_OF_A_HOST, Machine

ASSUMPTIONS = (
    "every program runs as fast as the larger of FLOPs/peak and bytes/bandwidth allows; what a "
    "machine reaches of either is less",
    "collectives begin when their program has ended and run at full rate around a ring; latency is "
    "not counted",
    "nothing is waited for: no host, no input, no start of a kernel",
)


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one run of a program on each device."""

    compute_s: float
    memory_s: float
    collective_s: float

    @property
    def estimate_s(self) -> float:
        """The whole of it."""
        return max(self.compute_s, self.memory_s) + self.collective_s

    @property
    def limited_by(self) -> str:
        """The part that takes longest."""
        parts = {
            "FLOPs": self.compute_s,
            "bytes": self.memory_s,
            "collectives": self.collective_s,
        }
        return max(parts, key=lambda name: parts[name])


def collective_s(one: Collective, machine: Machine) -> float:
    """Returns seconds of one collective, as often as its program runs it.

    An all-reduce sends everything around a ring twice, but for a device's own part; any other kind
    is taken for one round.  Between hosts the slower network counts.
    """
    members = max(map(len, one.groups), default=1)
    hosts = max(len({member // GPUS_OF_A_HOST for member in group}) for group in one.groups)
    rate = machine.beyond if machine.beyond and hosts > 1 else machine.ring
    rounds = 2 if one.kind == "all-reduce" else 1
    return one.times * rounds * one.bytes * (members - 1) / members / rate


def times(flops: float, moved: float, reduced_s: float, machine: Machine, peak: float) -> Times:
    """Returns the times of a program by its FLOPs and bytes moved; reduced_s: of its collectives.

    peak: FLOP/s.
    """
    return Times(flops / peak, moved / machine.bytes_per_s, reduced_s)
