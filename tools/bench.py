#!/usr/bin/env python3
"""Measure parts of the package on this machine."""

import json
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from bench_rnn import bench_rnn

from darts_dist import cli, ending
from darts_dist.cli import Parser

SIZES = {  # option -> knob and meaning
    "channels": ("network.channels", "width of the first cell"),
    "layers": ("network.layers", "cells"),
    "image": ("network.image_px", "side of a picture"),
    "batch": ("data.global_batch", "pictures in a step"),
}
KINDS = ("fusion", "convolution", "dot", "custom-call", "copy")
PASSES = ("gradient_both", "product")
NO_PART_OF_A_STEP = ("init", "evaluate")


def bench_input(args):
    """Pictures a second to batches: from memory as a search reads them, ImageNet's from disk."""
    from darts_dist.data import pipeline, sources

    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (50_000, 32, 32, 3), np.uint8)
    labels = draw.integers(0, 10, len(images)).astype(np.int32)
    pictures = sources.Pictures(images, labels, (), (), ())
    halves = dict(zip(pipeline.STREAMS, pipeline.halves(len(images), 0.5, "index"), strict=True))
    rows = []
    for seeds, global_batch in ((1, 64), (2, 64), (1, 256), (4, 256)):
        for threads in (0, 1, 2):
            iterator = pipeline.batches(
                pictures,
                halves,
                seeds=range(seeds),
                rows=slice(0, global_batch),
                global_batch=global_batch,
                start=0,
                threads=threads,
            )
            rates = rates_of(iterator, 2 * seeds * global_batch, args.seconds)
            iterator.close()
            sizes = {"seeds": seeds, "global_batch": global_batch, "threads": threads}
            rows.append(sizes | rates)
    return {"input": rows, "imagenet": bench_imagenet(args.seconds)}


def rates_of(iterator, count, seconds):
    """Returns the rates of an iterator whose items have `count` pictures each."""
    next(iterator)
    steps, wall, cpu = 0, time.perf_counter(), time.process_time()
    while not steps or time.perf_counter() - wall < seconds:
        next(iterator)
        steps += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "pictures_per_s": round(count * steps / wall),
        "pictures_per_cpu_s": round(count * steps / cpu),
    }


def bench_imagenet(seconds):
    """Returns rows of training pictures at 224 pixels: Pillow alone, on bytes in memory with the
    same crops, then the pipeline, from files and from ArrayRecord.
    """
    import itertools
    import tempfile

    from darts_dist import config as configs
    from darts_dist.data import crops, pipeline, records, sources

    batch = 32
    with tempfile.TemporaryDirectory() as place:
        root, packed = pathlib.Path(place) / "folder", pathlib.Path(place) / "records"
        data = write_photos(root)
        records.write(root, packed, per_shard=16, short_px=0, say=lambda text: None)
        words = pipeline.draw_words("train", 0, 0, slice(0, len(data)), crops.WORDS)
        alone = (decode(*one) for one in itertools.cycle(list(zip(data, words, strict=True))))
        rows = [{"from": "Pillow alone", "threads": 0} | rates_of(alone, 1, seconds)]
        for name, path in (("files", root), ("ArrayRecord", packed)):
            given = ("data.kind=imagenet", f"data.path={path}", "network.image_px=224")
            config = configs.parse("", "the bench", overrides=given)
            pictures = sources.load(config, "train")
            for threads in (0, 1, 2):
                iterator = pipeline.batches(
                    pictures,
                    {"train": np.arange(len(pictures.labels))},
                    seeds=(0,),
                    rows=slice(0, batch),
                    global_batch=batch,
                    start=0,
                    threads=threads,
                )
                rates = rates_of(iterator, batch, seconds)
                iterator.close()
                rows.append({"from": name, "threads": threads} | rates)
    for row in rows:
        share = row["pictures_per_cpu_s"] / rows[0]["pictures_per_cpu_s"]
        row["percent_of_pillow"] = round(100 * share)
    return rows


def decode(data, words):
    """Returns a random crop as Pillow makes it: the least that a training picture costs."""
    import io

    from PIL import Image

    from darts_dist.data import crops

    image = Image.open(io.BytesIO(data))
    piece = image.crop(crops.random_box(words, *image.size, 0.08))
    return np.asarray(piece.resize((224, 224), Image.Resampling.BILINEAR))


def write_photos(root):
    """Writes 64 JPEGs of ImageNet's usual size and bytes, two classes; returns their bytes."""
    from PIL import Image

    draw, data = np.random.default_rng(0), []
    for number in range(64):
        image = np.zeros((375, 500, 3))
        for cells in (3, 12, 48, 200):  # what a photograph has of large and small
            noise = draw.integers(0, 256, (cells, cells, 3), np.uint8)
            size = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
            image += np.asarray(size) / 4
        file = root / "train" / f"class{number % 2}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(file, quality=90)
        data.append(file.read_bytes())
    return data


def bench_kernels(args):
    """Kernels, memory and compile time of a search's programs, read off what XLA makes of them."""
    from darts_dist import cluster
    from darts_dist import config as configs

    given = {knob: getattr(args, option) for option, (knob, _) in SIZES.items()}
    overrides = [f"{knob}={size}" for knob, size in given.items() if size is not None]
    overrides.append("method.warmup_epochs=0")  # the step of the later epochs
    if args.part == "network":
        overrides.append("method.hypergradient=exact")  # the one that has both passes
    if args.config:
        config = configs.load(args.config, overrides)
    else:
        config = configs.parse("", "the defaults", overrides=overrides)
    cluster.start(
        platform=args.platform,
        cpu_devices=config.cluster.cpu_devices,
        float64=config.precision.compute == "float64",
        matmul=config.precision.matmul,
        deterministic=config.precision.deterministic,
        cache=False,
    )
    if args.part == "cell":
        rows = [
            program_row(name, 1, lambda reduction=reduction: lower_cell(config, reduction))
            for name, reduction in (("normal_cell", False), ("reduction_cell", True))
        ]
        return {"kernels": rows}
    step = traced_step(config)
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
    """Returns what is told of a program; `lower()` returns it ready to compile."""
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


def traced_step(config):
    """Returns the step of a search, traced but not compiled."""
    from darts_dist import cluster
    from darts_dist.searchstep import SearchStep

    network = config.network
    step = SearchStep(
        config,
        cluster.make_mesh(config.seeds.count, config.mesh.seed, config.mesh.data),
        classes=network.classes or 10,
        mean=config.data.mean or (0.5,) * network.in_channels,
        std=config.data.std or (0.25,) * network.in_channels,
        epoch_steps=1,
    )
    step.trace((network.image_px, network.image_px, network.in_channels))
    return step


def lower_cell(config, reduction):
    """Returns one pass of a cell within a network, ready to compile: outputs, running statistics,
    and the gradients by weights, mixture weights and the two states that it gets.
    """
    import jax

    from darts_dist.nets.cells import SearchCell
    from darts_dist.nets.init import Keys
    from darts_dist.nets.layout import LAYOUTS, default_layout
    from darts_dist.nets.pure import pure
    from darts_dist.nets.rows import arranged
    from darts_dist.spaces import cnn

    network, layout = config.network, LAYOUTS[default_layout()]
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
    return jax.jit(both_ways).lower(*point, out)


def precisions(config):
    """Returns the number formats of a network's maps and of its weights."""
    import jax.numpy as jnp

    from darts_dist.seedwork import DTYPES

    compute = DTYPES[config.precision.compute]
    return compute, jnp.promote_types(compute, jnp.float32)


BENCHES = {"input": bench_input, "kernels": bench_kernels, "rnn": bench_rnn}


def print_table(rows):
    """Prints dicts of equal keys as a table; texts as they are, numbers with commas."""
    table = [list(rows[0])]
    for row in rows:
        table.append([v if isinstance(v, str) else f"{v:,}" for v in row.values()])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))


def main(arguments):
    """Runs one bench by the command line; returns the exit code."""
    lines = [f"  {name:10} {bench.__doc__}" for name, bench in BENCHES.items()]
    parser = Parser(description=__doc__ + "\n\nWHAT is one of:\n" + "\n".join(lines))
    parser.add_argument("bench", metavar="WHAT", choices=list(BENCHES), help=", ".join(BENCHES))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    group = parser.add_argument_group("input")
    group.add_argument("--seconds", type=float, default=2.0, help="for each row; default 2")
    group = parser.add_argument_group("kernels", "of the search network of the paper by default")
    group.add_argument(
        "--what",
        dest="part",
        choices=("cell", "network", "step"),
        default="cell",
        help="a pass of a cell (default), the passes of the network, or all programs of a step",
    )
    group.add_argument("--config", metavar="FILE", help="a search's config instead")
    group.add_argument("--platform", default="cpu", help="that jax compiles for; default cpu")
    for option, (knob, meaning) in SIZES.items():
        group.add_argument(f"--{option}", type=int, metavar="N", help=f"{meaning} ({knob})")
    group = parser.add_argument_group(
        "rnn",
        "--channels and --batch too; the paper's sizes by default; masks of dropout are drawn",
    )
    group.add_argument(
        "--peer", choices=("torch",), help="the same step in eager PyTorch beside it"
    )
    for option, size, meaning in (
        ("window", 35, "words of a column"),
        ("words", 10_000, "of the vocabulary"),
        ("nodes", 8, "of the cell"),
        ("repeats", 5, "steps that count"),
    ):
        group.add_argument(
            f"--{option}", type=int, metavar="N", default=size, help=f"{meaning}; default {size}"
        )
    args = parser.parse_args(arguments)
    if args.bench == "rnn":
        cli.use_huge_pages()
    result = BENCHES[args.bench](args)
    if args.json:
        print(json.dumps(result))
    else:
        for rows in result.values():
            print_table(rows)
    return 0


if __name__ == "__main__":
    ending.finish(lambda: main(sys.argv[1:]))
