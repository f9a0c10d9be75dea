"""What is done with published archives, and what is refused of them."""

import struct
import subprocess
import tarfile
import zipfile

import pytest

from darts_dist.data import published
from darts_dist.errors import DataError, StorageError

TEXTS = {name: f" = {name} = \n word <unk> \n".encode() for name in published.TEXTS}


def make_archive(path, texts=TEXTS, extra=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("wikitext-2/", "")
        for name, text in texts.items():
            archive.writestr(published.TEXTS[name], text)
        for name, text in extra:
            archive.writestr(name, text)
    return path


def unpacked(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_texts_are_unpacked_under_the_names_of_the_layout(tmp_path):
    archive = make_archive(tmp_path / "a.zip")
    out = tmp_path / "out"
    out.mkdir()
    published.unpack_texts(archive, out)
    assert unpacked(out) == TEXTS
    published.unpack_texts(archive, out)
    assert unpacked(out) == TEXTS


def test_other_texts_of_these_names_are_only_replaced_by_force(tmp_path):
    archive = make_archive(tmp_path / "a.zip")
    out = tmp_path / "out"
    out.mkdir()
    (out / "valid.txt").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"valid\.txt is there and is not WikiText-2's"):
        published.unpack_texts(archive, out)
    assert unpacked(out) == {"valid.txt": b"mine"}
    published.unpack_texts(archive, out, force=True)
    assert unpacked(out) == TEXTS


def test_nothing_but_the_texts_leaves_the_archive(tmp_path):
    names = ["../evil", "/tmp/evil-of-a-test", "wikitext-2/../../evil", "c:\\evil", "more.txt"]
    archive = make_archive(tmp_path / "a.zip", extra=[(name, "evil") for name in names])
    out = tmp_path / "out" / "deep"
    out.mkdir(parents=True)
    published.unpack_texts(archive, out)
    assert unpacked(out) == TEXTS
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        ["a.zip", *TEXTS]
    )


def test_a_link_out_of_the_folder_is_replaced_and_not_followed(tmp_path):
    archive = make_archive(tmp_path / "a.zip")
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "mine").write_bytes(b"mine")
    (out / "test.txt").symlink_to(tmp_path / "mine")
    published.unpack_texts(archive, out, force=True)
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert unpacked(out) == TEXTS


def with_size(path, size):
    """Makes an archive lie about the size of its first text."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(data)


def encrypt(path):
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[entry + 8] |= 1
    local = data.index(b"PK\x03\x04", 1)
    data[local + 6] |= 1
    path.write_bytes(data)


def flip(path):
    data = bytearray(path.read_bytes())
    data[data.index(published.TEXTS["train.txt"].encode()) + 30] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda path: make_archive(path, {**TEXTS, "test.txt": bytes(2**26 + 1)}),
            "wanted at most",
        ),
        (lambda path: with_size(path, 2**31), "2147483648 bytes; wanted at most"),
        (lambda path: with_size(path, 5), "Bad CRC"),
        (lambda path: with_size(path, 5000), r"train\.tokens has \d+ bytes, not 5000"),
        (lambda path: make_archive(path, {"train.txt": b"a"}), r"wanted in it wikitext-2/wiki\.tr"),
        (encrypt, "encrypted"),
        (flip, "cannot be unpacked"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "cannot be unpacked"),
        (lambda path: path.write_bytes(b"no zip"), "cannot be unpacked"),
        (lambda path: path.unlink(), "cannot be unpacked"),
    ],
)
def test_a_hostile_or_broken_archive_leaves_nothing(tmp_path, spoil, said):
    archive = make_archive(tmp_path / "a.zip")
    spoil(archive)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match=said):
        published.unpack_texts(archive, out)
    assert not unpacked(out)


def test_a_folder_that_is_gone_is_a_storage_failure(tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        published.unpack_texts(make_archive(tmp_path / "a.zip"), tmp_path / "gone")


def test_the_commands_for_imagenet_make_the_layout(tmp_path):
    classes = {"n01440764": ["a.JPEG", "b.JPEG"], "n01443537": ["c.JPEG"]}
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as whole:
        for name, pictures in classes.items():
            with tarfile.open(tmp_path / f"{name}.tar", "w") as one:
                for picture in pictures:
                    (tmp_path / picture).write_text(picture)
                    one.add(tmp_path / picture, picture)
            whole.add(tmp_path / f"{name}.tar", f"{name}.tar")
    lines = published.INSTRUCTIONS["imagenet"].splitlines()
    commands = [line for line in lines if line.strip().startswith(("mkdir ", "for "))]
    assert len(commands) == 2
    subprocess.run("\n".join(commands), shell=True, check=True, cwd=tmp_path, timeout=60)
    made = {one.name: sorted(path.name for path in one.iterdir())
            for one in (tmp_path / "OUT" / "train").iterdir()}  # fmt: skip
    assert made == classes
