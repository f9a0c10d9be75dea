"""Losses of a search in bfloat16 beside the same in float32, on real pictures.

Both see the same pictures in the same order from the same first weights. A third side tells what
rounding alone leads to: float32 again, from weights rounded to bfloat16 once. Steps of noise apart,
losses are compared as means over tenths of the steps.
"""

import dataclasses
import sys

import numpy as np

PARTS = 10
SMALL = {"channels": 8, "layers": 3, "batch": 16}
SIDES = {"float32": "float32", "bfloat16": "bfloat16", "rounded": "float32"}
LOSSES = ("loss", "valid_loss")  # of the weights' batch, and of that which the alphas move by


def bench_precision(args):
    """Losses in bfloat16 beside float32; the package's pictures or --config; --steps, --layout."""
    from darts_dist import cluster

    cluster.start(platform="cpu", cpu_devices=1)
    curves = {name: _losses(args, name) for name in SIDES}
    rows = []
    for part in np.array_split(np.arange(args.steps), min(PARTS, args.steps)):
        for at, loss in enumerate(LOSSES):
            means = {name: float(curve[part, at].mean()) for name, curve in curves.items()}
            away = {
                f"{name}_percent": 100 * (mean / means["float32"] - 1)
                for name, mean in list(means.items())[1:]
            }
            rounded = {name: round(value, 3) for name, value in (means | away).items()}
            rows.append({"steps": f"{part[0]} to {part[-1]}", "of": loss} | rounded)
    return {"precision": rows}


def _losses(args, name):
    """Returns the losses of a side, f[steps, 2]."""
    import jax
    import jax.numpy as jnp
    from bench_search import config_of

    from darts_dist.bilevel import Search
    from darts_dist.data import sources

    own = f"precision.compute={SIDES[name]}"
    if args.config:
        config = config_of(args, "first", own)
    else:
        config = config_of(args, "first", own, "data.kind=sample", small=SMALL)
    search = Search(config, sources.load(config, "train"), args.layout)
    search.compile()
    states, feed, seen = search.init(), search.batches(), []
    if name == "rounded":
        (state,) = states
        params = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(w.dtype), state.params)
        states = (dataclasses.replace(state, params=params),)
    for at in range(args.steps):
        states, metrics = search.step(states, next(feed), search.rate(0))
        seen.append([metrics[loss][0] for loss in LOSSES])
        if (at + 1) % 100 == 0:
            print(f"{name}: {at + 1} steps", file=sys.stderr)
    feed.close()
    return np.array(jax.device_get(seen))
