"""Pictures a second that the pipeline gives, beside what bare decoding takes."""

import pathlib
import time

import numpy as np


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
