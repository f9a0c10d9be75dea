"""Several seeds on one device: in turn, as a run works on them, and as one program for all.

Timed is the pass that takes the gradients of a search, of the small network or of sizes given. The
sides take turns.
"""

import statistics
import sys

import turns

COUNTS = (2, 4)


def bench_seeds(args):
    """Gradients of several seeds, in turn and vectorised; the small network of search --quick."""
    from darts_dist import cluster

    cluster.start(platform="cpu", cpu_devices=1)
    rows = []
    one, first = _compiled(args, 1)
    for count in COUNTS:
        many, given = _compiled(args, count)
        seen = {"in turn": [], "vectorised": []}
        for turn in range(args.repeats + 1):  # the first does not count
            for name, how in (
                ("in turn", lambda count=count: [one(*first) for _ in range(count)]),
                ("vectorised", lambda many=many, given=given: many(*given)),
            ):
                row = turns.timed(lambda how=how: _finished(how()))
                seen[name].append(row)
                print(f"turn {turn}, {count} seeds, {name}: {row}", file=sys.stderr)
        for name, every in seen.items():
            rows.append({"seeds": count} | turns.summary(name, every[1:]))
        ratios = [a["wall_s"] / b["wall_s"] for a, b in zip(*seen.values(), strict=True)][1:]
        rows[-1]["in_turn_over_this"] = round(statistics.median(ratios), 2)
        rows[-2]["in_turn_over_this"] = 1.0
    return {"seeds": rows}


def _finished(tree):
    import jax

    jax.block_until_ready(tree)


def _compiled(args, count):
    """Returns (the compiled pass over so many seeds, what it takes)."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from bench_search import config_of

    from darts_dist.bilevel import Search
    from darts_dist.data import sources

    args.quick = True
    config = config_of(args, "exact")
    side, rows = config.network.image_px, config.data.global_batch
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (4 * rows, side, side, 3), np.uint8)
    labels = draw.integers(0, 10, 4 * rows).astype(np.int32)
    names = tuple(map(str, range(10)))
    search = Search(config, sources.Pictures(images, labels, names, (0.5,) * 3, (0.25,) * 3))
    body = search.programs.one.gradient("both")

    def on_one_device(*own):  # the replicas of a seed are one; averages over them find their axis
        return jax.tree.map(
            lambda x: x[0], jax.vmap(lambda _: body(*own), axis_name="data")(jnp.zeros(1))
        )

    inits = [search.programs.one.init(seed) for seed in range(count)]
    states = jax.tree.map(lambda *x: jnp.stack(x), *inits)
    batch = (
        jnp.asarray(draw.normal(size=(count, rows, side, side, 3)), jnp.float32),
        jnp.asarray(draw.integers(0, 10, (count, rows)), jnp.int32),
    )
    given = (states.params, states.stats, states.alphas, batch)
    if count == 1:
        given = jax.tree.map(lambda x: x[0], given)
        return jax.jit(on_one_device).lower(*given).compile(), given
    return jax.jit(jax.vmap(on_one_device)).lower(*given).compile(), given
