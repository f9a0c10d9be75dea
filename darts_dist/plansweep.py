"""A plan at several batches, or numbers of seeds: as few of them compiled as will do.

Place: layer 4, part of the verb `plan`. Programs grow with the batch along straight lines, so the
smallest and the largest are compiled and the others lie between. They do not depend on the number
of seeds but for the mesh that it leads to: more seeds on the same mesh take more turns.
"""

import bisect
from collections.abc import Callable
from typing import Any

import jax
import msgspec

from darts_dist import plancosts, plandata
from darts_dist.errors import ConfigError
from darts_dist.machines import Machine
from darts_dist.planconfig import AnyPlan
from darts_dist.planning import Compiled

COMPILED, FITTED, DERIVED = "compiled", "fitted", "derived"
EXACT = (
    "derived: by the programs compiled for another number of seeds on the same mesh, in as many "
    "turns as it takes; exact, nothing is fitted"
)
MOST_STEPS = 2**24  # from one batch that divides over the devices to the next


def with_batch(config: AnyPlan, batch: int) -> AnyPlan:
    """Returns a config with another data.global_batch; ConfigError where it does not fit."""
    data = msgspec.structs.replace(config.data, global_batch=batch)
    return msgspec.structs.replace(config, data=data)


def with_seeds(config: AnyPlan, count: int) -> AnyPlan:
    """Returns a config with another seeds.count; ConfigError where it does not fit."""
    return msgspec.structs.replace(config, seeds=msgspec.structs.replace(config.seeds, count=count))


class Sweeps:
    """The points of one config on one machine.

    devices: how many there are.  lay_out: config -> mesh, or a ConfigError.  compiling: config ->
    `Compiled`.  `first` has the config's own programs.
    """

    def __init__(
        self,
        config: AnyPlan,
        machine: Machine,
        devices: int,
        lay_out: Callable[[AnyPlan], jax.sharding.Mesh],
        compiling: Callable[[AnyPlan], Compiled],
    ) -> None:
        """Compiles the config's own point, all others checked; ConfigError for one that fails."""
        self.config, self.machine, self.devices, self.compile = config, machine, devices, compiling
        own = config.data.global_batch, config.seeds.count
        self.batches = sorted({*config.plan.global_batches, own[0]})
        self.seeds = sorted({*config.plan.seeds, own[1]})
        self.meshes = {}
        for key, change, values in (
            ("global_batches", with_batch, config.plan.global_batches),
            ("seeds", with_seeds, config.plan.seeds),
        ):
            for value in values:
                try:
                    one = change(config, value)
                    plandata.count(one)
                    mesh = lay_out(one)
                except ConfigError as error:
                    raise ConfigError(f"plan.{key}: {error}") from None
                self.meshes[key, value] = dict(mesh.shape)
        self.first = compiling(config)

    def by_batch(self) -> dict[str, Any]:
        """Returns {"points", "largest", "notes"} by data.global_batch.

        largest: the largest batch that memory takes, on the line through the compiled ends: 0 for
        none, None where there is no end.
        """
        low, high = self.batches[0], self.batches[-1]
        known = {self.config.data.global_batch: self.first}
        for batch in (low, high):
            if batch not in known:
                known[batch] = self.compile(with_batch(self.config, batch))

        def fitted(batch: int) -> Compiled:
            return plancosts.between(known[low], known[high], (batch - low) / (high - low))

        points = [
            self._point(with_batch(self.config, batch), known[batch], COMPILED)
            if batch in known
            else self._point(with_batch(self.config, batch), fitted(batch), FITTED)
            for batch in self.batches
        ]
        blocks = self.config.seeds.count // self.first.mesh["seed"]
        replicas, room = self.first.mesh["data"], self.machine.memory_bytes

        def full(times: int) -> bool:
            return not plancosts.memory(fitted(times * replicas), blocks, room)["fits"]

        times = bisect.bisect_left(range(1, MOST_STEPS), True, key=full)
        largest = None if times == MOST_STEPS - 1 else times * replicas
        middle = self._point(self.config, fitted(self.config.data.global_batch), FITTED)
        return {
            "points": points,
            "largest": largest,
            "from": [low, high],
            "notes": [
                *_misses(points, middle, self.config.data.global_batch),
                *_counted_otherwise(known[low], known[high]),
            ],
        }

    def by_seeds(self) -> dict[str, Any]:
        """Returns {"points", "notes"} by seeds.count."""
        known = {tuple(self.first.mesh.items()): self.first}
        points = []
        for count in self.seeds:
            one = with_seeds(self.config, count)
            shape = tuple(self.meshes.get(("seeds", count), self.first.mesh).items())
            source = DERIVED if shape in known and count != self.config.seeds.count else COMPILED
            if shape not in known:
                known[shape] = self.compile(one)
            points.append(self._point(one, known[shape], source))
        derived = any(point["source"] == DERIVED for point in points)
        return {"points": points, "notes": [EXACT] if derived else []}

    def _point(self, config: AnyPlan, found: Compiled, source: str) -> dict[str, Any]:
        counts = plandata.count(config)
        told = plancosts.costs(config, counts, found, self.machine, self.devices)
        return {
            "global_batch": config.data.global_batch,
            "seeds": config.seeds.count,
            "source": source,
            "mesh": dict(found.mesh),
            "blocks": config.seeds.count // found.mesh["seed"],
            **{key: told["step"][key] for key in ("kernels", "flops", "bytes", "estimate_s")},
            "memory": told["memory"],
            "run": told["run"],
        }


def _counted_otherwise(low: Compiled, high: Compiled) -> list[str]:
    """Programs whose figures are not of the same source at both ends of a line."""
    names = [
        near["program"]
        for near, far in zip(low.programs, high.programs, strict=True)
        if any(near[key] != far[key] for key in ("flops_from", "bytes_from"))
    ]
    return [f"{', '.join(names)}: FLOPs or bytes are counted otherwise at the ends"] * bool(names)


def _misses(points: list[dict[str, Any]], middle: dict[str, Any], own: int) -> list[str]:
    """What the straight line does not tell: kernels that differ, and how far it is from a compiled
    point between its ends.
    """
    low, high = points[0], points[-1]
    notes = []
    if low["kernels"] != high["kernels"]:
        notes.append(
            f"a step has {low['kernels']:,} kernels at batch {low['global_batch']} and "
            f"{high['kernels']:,} at {high['global_batch']}: fitted ones are less sure"
        )
    if low["global_batch"] < own < high["global_batch"]:
        (true,) = (point for point in points if point["global_batch"] == own)
        peak, step = (
            100 * (line / exact - 1) if exact else 0
            for line, exact in (
                (middle["memory"]["peak"], true["memory"]["peak"]),
                (middle["estimate_s"], true["estimate_s"]),
            )
        )
        notes.append(
            f"at batch {own}, which is compiled, the line through the ends is {peak:+.1f} % off in "
            f"memory and {step:+.1f} % in time"
        )
    return notes
