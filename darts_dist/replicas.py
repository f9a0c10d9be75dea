"""Whether the copies of a seed's state on its devices are equal, bit for bit.

Place: layer 2. All replicas compute the same update of the same averaged gradient, so their copies
differ only where a device, its memory or a link computes wrongly, or where a program is wrong.
Training hides that: each replica goes on with its own weights. Every process sums up the copies on
its own devices, and the sums meet; nothing is compiled for it.
"""

import collections
import dataclasses
import json
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from darts_dist import agreement


def odd_ones(states: Sequence[Any]) -> str:
    """Returns which devices hold a copy of a part of the states that differs; "" if none does.

    states: dataclasses of global arrays.  It is the same text on all processes, which have to ask
    together, and names devices in the minority, their processes and the parts.
    """
    own = json.dumps(digests(states))
    found: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for text in agreement.exchange(own) if jax.process_count() > 1 else [own]:
        for part, sums in json.loads(text).items():
            found[part] |= sums
    odd: dict[str, list[str]] = collections.defaultdict(list)
    for part, sums in sorted(found.items()):
        (common, count), *others = collections.Counter(sums.values()).most_common()
        tie = bool(others) and count == others[0][1]
        for device, value in sums.items():
            if tie or value != common:
                odd[device].append(part.partition(" ")[0])
    return "; ".join(
        f"device {device} ({', '.join(dict.fromkeys(parts))})" for device, parts in odd.items()
    )


def digests(states: Sequence[Any]) -> dict[str, dict[str, int]]:
    """Returns {part: {device: crc32}} of this process's devices.

    A part is a field of a state and where its arrays lie: copies of one part have to be equal.
    """
    found: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for block, state in enumerate(states):
        for field in dataclasses.fields(state):
            for leaf in jax.tree.leaves(getattr(state, field.name)):
                if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                    leaf = jax.random.key_data(leaf)
                for shard in leaf.addressable_shards:
                    sums = found[f"{field.name} {block} {_place(shard.index, leaf.shape)}"]
                    device = f"{shard.device.id} of process {shard.device.process_index}"
                    raw = np.ascontiguousarray(shard.data).reshape(-1).view(np.uint8)
                    sums[device] = zlib.crc32(raw.data, sums.get(device, 0))
    return found


def _place(index, shape):
    """Returns where a shard lies along the axes that are cut, as text."""
    spans = [one.indices(size)[:2] for one, size in zip(index, shape, strict=True)]
    return [span for span, size in zip(spans, shape, strict=True) if span != (0, size)]
