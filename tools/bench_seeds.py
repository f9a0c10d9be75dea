"""Several seeds on one device: in turn, as a run works on them, and as one program for all.

Timed is the pass that takes the gradients of a search, of the small network or of sizes given, on
prepared pictures. The sides take turns.
"""

import statistics
import sys

import turns
from bench_search import QUICK, config_of, draw_pictures

COUNTS = (2, 4)


def bench_seeds(args):
    """Gradients of several seeds, in turn and vectorised; the small network of search --quick."""
    import jax
    import jax.numpy as jnp

    from darts_dist import cluster
    from darts_dist.bilevel import Search

    cluster.start(platform="cpu", cpu_devices=1)
    config = config_of(args, "exact", small=QUICK)
    search = Search(config, draw_pictures(config))
    programs, batch = search.programs, next(iter(search.batches()))
    (placed,) = programs.place_batches(batch)
    (state,) = search.init()
    ready = programs.prepare(state, placed)["train"]
    first = jax.tree.map(lambda x: x[0], (state.params, state.stats, state.alphas, ready))
    body = programs.one.gradient("both")

    def of_one(*own):  # the only replica of its seed: averages over "data" find their axis
        alone = jax.vmap(lambda _: body(*own), axis_name="data")(jnp.zeros(1))
        return jax.tree.map(lambda x: x[0], alone)

    one = jax.jit(of_one).lower(*first).compile()
    rows = []
    for count in COUNTS:
        every = jax.tree.map(lambda x, count=count: jnp.stack([x] * count), first)
        many = jax.jit(jax.vmap(of_one)).lower(*every).compile()

        def in_turn(count=count):
            jax.block_until_ready([one(*first) for _ in range(count)])

        def vectorised(many=many, every=every):
            jax.block_until_ready(many(*every))

        rows += _compare(count, {"in turn": in_turn, "vectorised": vectorised}, args.repeats)
    return {"seeds": rows}


def _compare(count, sides, repeats):
    """Returns the rows of both sides, the first of which the other is compared with."""
    seen = {name: [] for name in sides}
    for turn in range(repeats + 1):  # the first does not count
        for name, side in sides.items():
            seen[name].append(turns.timed(side))
            print(f"turn {turn}, {count} seeds, {name}: {seen[name][-1]}", file=sys.stderr)
    rows = []
    for name, own in seen.items():
        walls = zip(seen["in turn"][1:], own[1:], strict=True)
        ratio = statistics.median(base["wall_s"] / row["wall_s"] for base, row in walls)
        summary = turns.summary(name, own[1:])
        rows.append({"seeds": count} | summary | {"in_turn_over_this": round(ratio, 2)})
    return rows
