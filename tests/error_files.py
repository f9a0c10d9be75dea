"""The files that the commands of docs/errors.md name, and what happens to them in between."""

import contextlib
import gzip
import os
import pathlib
import pickle
import socket

from picture_folders import draw, encoded, put, put_numbered
from test_sources import make_archive, make_batch, make_folder
from torch_files import as_zip

from darts_dist import config, processes
from darts_dist.data import records

NETWORK = pathlib.Path(__file__).parent / "data" / "parity" / "checkpoints" / "cifar_zip_noaux.pt"
SMALL = """\
[space]
operations = ["skip_connect", "avg_pool_3x3"]
[network]
channels = 2
layers = 1
nodes = 1
stem = "imagenet"
[data]
global_batch = 8
train_limit = 64
[seeds]
count = 2
[method]
preset = "darts_first"
[schedule]
epochs = 20
steps_per_epoch = 100
[evaluation]
examples = 8
[checkpoint]
every_steps = 10
[log]
every_steps = 10
[cluster]
cpu_devices = 2
"""


def mine(path):
    path.write_text(SMALL)


def flowers(path):
    put_numbered(path, {"roses": 40, "tulips": 40})


def broken_pictures(path):
    flowers(path)
    picture = encoded(draw(size=(64, 64)), "JPEG")
    for name, data in {"cut.jpg": picture[:400], "empty.png": b"", "text.png": b"text"}.items():
        put(path / "tulips" / name, data)


def one_class(path):
    put_numbered(path, {"roses": 40})


def empty_class(path):
    flowers(path)
    (path / "lilies").mkdir()


def few_pictures(path):
    put_numbered(path, {"roses": 3, "tulips": 3})


def written_records(path):
    flowers(path.parent / f"{path.name}-source")
    records.write(
        path.parent / f"{path.name}-source", path, per_shard=100, short_px=0, say=lambda text: None
    )


def unfinished_records(path):
    written_records(path)
    (path / "index.json").rename(path / "plan.json")


def cut_records(path):
    written_records(path)
    shard = path / "train-00000-of-00001.array_record"
    shard.write_bytes(shard.read_bytes()[:-100])


def cut_archive(path):
    whole = make_archive("cifar10", "binary", path.parent)
    path.write_bytes(whole.read_bytes()[:-100])


def page_archive(path):
    path.write_bytes(b"<html>404 Not Found</html>")


def missing_files(path):
    path.mkdir()
    folder = make_folder("cifar10", "python", path)
    (folder / "data_batch_4").unlink()


def wrong_labels(path):
    path.mkdir()
    folder = make_folder("cifar10", "python", path)
    rows, _ = make_batch("cifar10", "data_batch_1")
    batch = {b"data": rows, b"labels": [1, 2, 10]}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, 3))


def hostile(path):
    path.mkdir()
    folder = make_folder("cifar10", "python", path)
    (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch taken-over'\ntR.")


def run(path):
    path.mkdir()
    (path / "config.toml").write_text(config.dump(config.load(None, ["data.global_batch=64"])))


def damaged_config(path):
    path.mkdir()
    (path / "config.toml").write_text("[network\nchannels = 16\n")


def damaged_result(path):
    path.mkdir()
    (path / "result.json").write_text('{"verb": "sea')


def locked(path):
    path.mkdir()
    path.chmod(0o555)


def full(path):
    path.mkdir()
    (path / "log.txt").symlink_to("/dev/full")


def cells(path):
    path.write_text('{"normal": [["sep_conv_3x4", 0], ["skip_connect", 1]]')


def wrong_cells(path):
    path.write_text(
        "Genotype(normal=[('sep_conv_3x4', 0), ('skip_connect', 1)], normal_concat=[2],"
        " reduce=[('sep_conv_3x3', 0), ('skip_connect', 1)], reduce_concat=[2])"
    )


@contextlib.contextmanager
def listen():
    """Takes the port; nothing is lost when something has it already."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("", 28761)))
        yield


@contextlib.contextmanager
def flip():
    """Flips a bit of each array in the newest checkpoint of `new`."""
    newest = max(pathlib.Path("new/checkpoints").iterdir(), key=lambda path: int(path.name))
    for file in newest.rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    yield


@contextlib.contextmanager
def work():
    """Holds the folder `run` as a search does."""
    held = processes.claim("run")
    yield
    os.close(held)


MAKERS = {
    "mine.toml": mine,
    "broken.toml": lambda path: path.write_text('[data\nkind = "sample"\n'),
    "latin.toml": lambda path: path.write_bytes('name = "Blüten"\n'.encode("latin-1")),
    "notes.txt": lambda path: path.write_text("notes\n"),
    "flowers": flowers,
    "broken-pictures": broken_pictures,
    "one-class": one_class,
    "empty-class": empty_class,
    "few-pictures": few_pictures,
    "records": written_records,
    "unfinished-records": unfinished_records,
    "cut-records": cut_records,
    "cut.tar.gz": cut_archive,
    "page.tar.gz": page_archive,
    "missing-files": missing_files,
    "wrong-labels": wrong_labels,
    "hostile": hostile,
    "run": run,
    "damaged-config": damaged_config,
    "damaged-result": damaged_result,
    "locked": locked,
    "full": full,
    "net.pt": lambda path: path.write_bytes(NETWORK.read_bytes()),
    "net.pt.gz": lambda path: path.write_bytes(gzip.compress(NETWORK.read_bytes())),
    "cut.pt": lambda path: path.write_bytes(NETWORK.read_bytes()[:200_000]),
    "hostile.pt": lambda path: path.write_bytes(
        as_zip(b"\x80\x02cos\nsystem\n\x8c\x10touch taken-over\x85R.")
    ),
    "whole.pt": lambda path: path.write_bytes(as_zip(b"\x80\x02cmodel\nNetworkCIFAR\n)\x81}b.")),
    "cells.json": cells,
    "cells.txt": wrong_cells,
}
HAPPENINGS = {
    "# a bit of the newest checkpoint flips on the disk": flip,
    "# something else listens on port 28761": listen,
    "# another process works in run": work,
}
