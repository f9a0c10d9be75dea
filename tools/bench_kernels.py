"""Kernels, memory and compile time of a search's programs, read off what XLA makes of them."""

import time

SIZES = {  # option -> knob and meaning
    "channels": ("network.channels", "width of the first cell"),
    "layers": ("network.layers", "cells"),
    "image": ("network.image_px", "side of a picture"),
    "batch": ("data.global_batch", "pictures in a step"),
}
KINDS = ("fusion", "convolution", "dot", "custom-call", "copy")
PASSES = ("gradient_both", "product")
NO_PART_OF_A_STEP = ("init", "evaluate")


def bench_kernels(args):
    """Kernels, memory and compile time of a search's programs, read off what XLA makes of them."""
    from darts_dist import cluster, machines, topology
    from darts_dist import config as configs

    place = machines.parse(args.topology)
    given = {knob: getattr(args, option) for option, (knob, _) in SIZES.items()}
    overrides = [f"{knob}={size}" for knob, size in given.items() if size is not None]
    overrides.append("method.warmup_epochs=0")  # the step of the later epochs
    if args.part == "network":
        overrides.append("method.hypergradient=exact")  # the one that has both passes
    if args.config:
        config = configs.load(args.config, overrides)
    else:
        config = configs.parse("", "the defaults", overrides=overrides)
    topology.set_environment(place)
    cluster.start(
        platform="cpu",
        cpu_devices=place.count if place.kind == "cpu" else 0,
        float64=config.precision.compute == "float64",
        matmul=config.precision.matmul,
        deterministic=config.precision.deterministic,
        cache=False,
        alone=True,
    )
    devices = topology.devices(place)
    if args.part == "cell":
        rows = [
            program_row(
                name,
                1,
                lambda reduction=reduction: lower_cell(config, reduction, devices[0]),
            )
            for name, reduction in (("normal_cell", False), ("reduction_cell", True))
        ]
        return {"kernels": rows}
    step = traced_step(config, devices)
    rows = [
        program_row(
            name,
            0 if name in NO_PART_OF_A_STEP else step.blocks * program.uses,
            program.lower,
        )
        for name, program in step.programs.items()
        if args.part == "step" or name in PASSES
    ]
    if args.part == "network":
        return {"kernels": rows}
    whole = {"kernels_of_a_step": sum(row["calls"] * row["kernels"] for row in rows)}
    for seconds in ("lower_cpu_s", "compile_cpu_s"):
        whole[seconds] = round(sum(row[seconds] for row in rows), 1)
    return {"kernels": rows, "step": [whole]}


def program_row(name, calls, lower):
    """Returns what is told of a program; `lower()` returns it lowered."""
    from darts_dist import compiled

    times = [time.process_time()]
    lowered = lower()
    times.append(time.process_time())
    executable = lowered.compile()
    times.append(time.process_time())
    told = compiled.read(executable)
    found = told.kernels
    known = {kind: found.counts.get(kind, 0) for kind in KINDS}
    return {
        "program": name,
        "calls": calls,
        "kernels": found.total,
        **known,
        "other": found.total - sum(known.values()),
        "compiled": found.compiled,
        "unknown_loops": len(found.unknown_loops),
        "temp_mb": round(told.temp / 1e6, 1),
        "accessed_mb": round(told.moved / 1e6, 1),
        "lower_cpu_s": round(times[1] - times[0], 1),
        "compile_cpu_s": round(times[2] - times[1], 1),
    }


def traced_step(config, devices):
    """Returns the step of a search on devices, traced but not compiled."""
    from darts_dist import cluster
    from darts_dist.nets.layout import default_layout
    from darts_dist.searchstep import SearchStep

    network = config.network
    step = SearchStep(
        config,
        cluster.make_mesh(config.seeds.count, config.mesh.seed, config.mesh.data, devices),
        classes=network.classes or 10,
        mean=config.data.mean or (0.5,) * network.in_channels,
        std=config.data.std or (0.25,) * network.in_channels,
        epoch_steps=1,
        layout=default_layout(devices[0].platform),
    )
    step.trace((network.image_px, network.image_px, network.in_channels))
    return step


def lower_cell(config, reduction, device):
    """Returns one pass of a cell within a network, ready to compile for a device: outputs, running
    statistics, and the gradients by weights, mixture weights and the two states that it gets.
    """
    import jax

    from darts_dist.nets.cells import SearchCell
    from darts_dist.nets.init import Keys
    from darts_dist.nets.layout import LAYOUTS, default_layout
    from darts_dist.nets.pure import pure
    from darts_dist.nets.rows import arranged
    from darts_dist.spaces import cnn

    network, layout = config.network, LAYOUTS[default_layout(device.platform)]
    compute, real = precisions(config)
    width = network.nodes * network.channels
    init, apply = pure(
        lambda key: SearchCell(
            (width, width),
            network.channels * (2 if reduction else 1),
            network.nodes,
            config.space.operations,
            reduction=reduction,
            reduction_before=False,
            keys=Keys(key),
            layout=layout,
            init=network.init,
            axis_name=None,
            dtype=real,
        )
    )

    def forward(params, stats, states, weights):
        return apply(params, stats, states, weights, train=True)

    def both_ways(params, stats, states, weights, cotangent):
        out, pull, moved = jax.vjp(
            lambda *wrt: forward(wrt[0], stats, *wrt[1:]), params, states, weights, has_aux=True
        )
        return out, moved, pull(cotangent)

    images = (config.data.global_batch, network.image_px, network.image_px, width)
    state = jax.eval_shape(layout.from_images, jax.ShapeDtypeStruct(images, compute))
    alphas = jax.ShapeDtypeStruct(cnn.alpha_shape(config), real)
    weights = jax.eval_shape(lambda p: arranged(p, config.space.operations), alphas)
    point = (*jax.eval_shape(init, jax.random.key(0)), (state, state), weights)
    out, _ = jax.eval_shape(forward, *point)
    there = jax.sharding.SingleDeviceSharding(device)
    return jax.jit(both_ways, in_shardings=there, out_shardings=there).lower(*point, out)


def precisions(config):
    """Returns the number formats of a network's maps and of its weights."""
    import jax.numpy as jnp

    from darts_dist.seedwork import DTYPES

    compute = DTYPES[config.precision.compute]
    return compute, jnp.promote_types(compute, jnp.float32)
