#!/usr/bin/env python3
"""Measure parts of the package on this machine."""

import argparse
import json
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))


def bench_input(args):
    """Pictures a second from memory to batches, both streams, as a search reads them."""
    from darts_dist.data import pipeline, sources

    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (50_000, 32, 32, 3), np.uint8)
    labels = draw.integers(0, 10, len(images)).astype(np.int32)
    pictures = sources.Pictures(images, labels, (), (), ())
    halves = pipeline.halves(len(images), 0.5, "index")
    rows = []
    for seeds, global_batch in ((1, 64), (2, 64), (1, 256), (4, 256)):
        for threads in (0, 1, 2):
            iterator = pipeline.search_batches(
                pictures,
                halves,
                seeds=range(seeds),
                rows=slice(0, global_batch),
                global_batch=global_batch,
                start=0,
                threads=threads,
            )
            next(iterator)
            steps, wall, cpu = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - wall < args.seconds:
                next(iterator)
                steps += 1
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            iterator.close()
            read = 2 * seeds * global_batch * steps
            rows.append(
                {
                    "seeds": seeds,
                    "global_batch": global_batch,
                    "threads": threads,
                    "pictures_per_s": round(read / wall),
                    "pictures_per_cpu_s": round(read / cpu),
                }
            )
    return {"input": rows}


BENCHES = {"input": bench_input}


def print_table(rows):
    """Prints dicts of equal keys as a table."""
    widths = {key: max(len(key), *(len(f"{row[key]:,}") for row in rows)) for key in rows[0]}
    print("  ".join(key.rjust(width) for key, width in widths.items()))
    for row in rows:
        print("  ".join(f"{row[key]:,}".rjust(width) for key, width in widths.items()))


def main():
    """Runs one bench by the command line."""
    lines = [f"  {name:10} {bench.__doc__}" for name, bench in BENCHES.items()]
    parser = argparse.ArgumentParser(
        description=__doc__ + "\n\nWHAT is one of:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="WHAT", choices=list(BENCHES), help=", ".join(BENCHES))
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row; default 2")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    result = BENCHES[args.what](args)
    if args.json:
        print(json.dumps(result))
    else:
        for rows in result.values():
            print_table(rows)


if __name__ == "__main__":
    main()
