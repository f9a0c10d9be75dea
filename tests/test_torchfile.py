"""The reader of PyTorch's files: what it reads, what it refuses, that it runs nothing."""

import collections
import gzip
import io
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch_files as files
from torch_files import CONTAINERS, Call, Storage, as_legacy, as_zip, state_of, tensor

from darts_dist import torchfile
from darts_dist.errors import DataError, StorageError
from darts_dist.torchpickle import Class, Record

RNG = np.random.default_rng(0)
ARRAYS = {
    "stem.0.weight": RNG.normal(size=(6, 3, 3, 3)).astype("f4"),
    "stem.1.running_mean": RNG.normal(size=6),
    "half": RNG.normal(size=(2, 5)).astype("f2"),
    "stem.1.num_batches_tracked": np.array(2**40),
    "bytes": RNG.integers(0, 256, 7, np.uint8),
    "mask": np.array([True, False, True]),
    "empty": np.zeros((0, 3), "f4"),
}
both = pytest.mark.parametrize("container", CONTAINERS.values(), ids=list(CONTAINERS))


@pytest.fixture
def read(tmp_path):
    """Returns what the reader makes of bytes."""

    def read(data, **how):
        path = tmp_path / "net.pt"
        path.write_bytes(data)
        return torchfile.read(path, **how)

    return read


@pytest.fixture
def read_state(tmp_path):
    """Returns the state dict that the reader finds in bytes."""

    def read_state(data):
        path = tmp_path / "net.pt"
        path.write_bytes(data)
        return torchfile.read_state(path)

    return read_state


def refused(read, data, *texts):
    with pytest.raises(DataError) as caught:
        read(data)
    told = str(caught.value)
    assert "\n" not in told and all(text in told for text in texts), told


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


# What is read.


@both
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_tensors_of_every_kind_are_read_from_both_containers(read_state, container, protocol):
    assert_same(read_state(container(state_of(ARRAYS), protocol)), ARRAYS)


@both
def test_bfloat16_comes_as_the_float32_of_the_same_value(read, container):
    upper = np.array([0x3F80, 0xC049, 0x7F80, 0x0001], "u2")
    found = read(container({"x": tensor(Storage(upper, "BFloat16"))}))["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (upper.astype("u4") << 16).view("f4"))


@both
def test_strides_offsets_and_shared_storages_are_kept(read, container):
    numbers = np.arange(24.0)
    shared = Storage(numbers)
    found = read(
        container(
            {
                "turned": tensor(shared, 0, (6, 4), (1, 6)),
                "part": tensor(shared, 5, (3, 2), (4, 2)),
                "same": tensor(shared, 5, (3, 2), (4, 2)),
                "repeated": tensor(shared, 7, (5, 2), (0, 1)),
                "one": tensor(shared, 23, (), ()),
                "thin": tensor(shared, 2, (1, 3), (2**62, 1)),
            }
        )
    )
    np.testing.assert_array_equal(found["turned"], numbers.reshape(4, 6).T)
    np.testing.assert_array_equal(found["part"], [[5, 7], [9, 11], [13, 15]])
    np.testing.assert_array_equal(found["repeated"], [[7, 8]] * 5)
    assert found["one"] == 23 and found["thin"].tolist() == [[2, 3, 4]]
    assert np.shares_memory(found["part"], found["same"])
    with pytest.raises(ValueError, match="read-only"):
        found["part"][0, 0] = 1


def test_tensors_of_a_graphics_card_and_parts_of_storages_are_read(read):
    part = Storage(np.arange(9.0), module="torch.cuda", view=("7", 3, 4))
    old = Call(files.REBUILD, part, 1, (3,), (1,))
    assert read(as_legacy([old]))[0].tolist() == [4, 5, 6]


@both
def test_parameters_are_the_tensors_that_they_are(read, container):
    old = Call(files.PARAMETER, tensor(np.ones(2)), state=(True, False, None))
    new = Call(files.REBUILD_PARAMETER, tensor(np.ones(3)), True, collections.OrderedDict())
    assert [len(one) for one in read(container([old, new]))] == [2, 3]


@both
def test_a_wrapped_state_dict_of_a_parallel_network_is_the_same(read_state, container):
    parallel = state_of({f"module.{name}": value for name, value in ARRAYS.items()})
    whole = {"epoch": 3, "state_dict": parallel, "best": 7.5, "optimizer": {"state": {}, "lr": [1]}}
    assert_same(read_state(container(whole)), ARRAYS)


def test_names_stay_where_not_all_have_the_prefix(read_state):
    names = {"module.a": np.ones(1), "b": np.ones(1)}
    assert list(read_state(as_zip(state_of(names)))) == ["module.a", "b"]


def test_texts_of_python_2_and_pairs_in_an_ordered_dict_are_read(read):
    pairs = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01e](U\x01bT\x02\x00\x00\x00hieeae"
    assert read(as_legacy(pairs.replace(b"eeae", b"ee\x85R."))) == {"a": 1, "b": "hi"}


def test_big_endian_numbers_are_turned(read_state):
    assert_same(read_state(as_zip(state_of(ARRAYS), order="big")), ARRAYS)


def test_a_listed_class_is_recorded_and_no_other(read):
    def linear(weight):
        return Call(files.LINEAR, state={"_parameters": {"weight": weight}, "bias": None})

    network = Call(files.MODEL, state={"decoder": linear(tensor(np.ones(4))), "cls": files.LINEAR})
    names = ["model.RNNModel", "torch.nn.modules.linear.Linear"]
    for container in CONTAINERS.values():
        found = read(container(network), records=names)
        assert isinstance(found, Record) and found.name == "model.RNNModel"
        assert found.state["cls"] == Class("torch.nn.modules.linear.Linear")
        assert found.state["decoder"].state["_parameters"]["weight"].tolist() == [1] * 4
        refused(lambda data: read(data, records=names[:1]), container(network), names[1])
        refused(read, container(network), "names 'model.RNNModel'", "state_dict()")


# What is written.


def test_what_is_written_is_read_again(tmp_path):
    swapped = ARRAYS | {"half": ARRAYS["half"].astype(">f2"), "stem.1.running_mean": np.arange(4.0)}
    torchfile.write(tmp_path / "new.pt", swapped | {"turned": np.arange(6.0).reshape(2, 3).T})
    found = torchfile.read_state(tmp_path / "new.pt")
    np.testing.assert_array_equal(found.pop("turned"), [[0, 3], [1, 4], [2, 5]])
    assert_same(found, swapped | {"half": ARRAYS["half"]})
    assert [path.name for path in tmp_path.iterdir()] == ["new.pt"]


def test_what_is_written_has_the_form_that_pytorch_takes(tmp_path):
    path = tmp_path / "new.pt"
    torchfile.write(path, ARRAYS)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        data = [f"new/data/{key}" for key in range(len(ARRAYS))]
        assert archive.namelist() == ["new/data.pkl", "new/byteorder", *data, "new/version"]
        assert (archive.read("new/version"), archive.read("new/byteorder")) == (b"3\n", b"little")
        for info in archive.infolist():
            head = path.read_bytes()[info.header_offset :][:30]
            start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
            assert start % 64 == 0 and info.compress_type == zipfile.ZIP_STORED
        program = list(pickletools.genops(archive.read("new/data.pkl")))
    names = {text for code, text, _ in program if code.name == "GLOBAL"}
    storages = {
        f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "Long", "Byte", "Bool")
    }
    assert names == {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *storages}


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(StorageError, match="nowhere"):
        torchfile.write(tmp_path / "nowhere" / "new.pt", ARRAYS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder cannot be written"):
        torchfile.write(tmp_path / "folder", ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# What is refused.


@pytest.mark.parametrize(
    "attack",
    [
        Call(os.system, "touch taken-over"),
        Call(eval, "open('taken-over', 'w')"),
        Call(open, "taken-over", "w"),
        {"a": [Call(os.mkdir, "taken-over")]},
        Call(collections.OrderedDict, [["a", Call(os.mkdir, "taken-over")]]),
        Call(files.REBUILD_V2, Call(os.mkdir, "taken-over"), 0, (1,), (1,)),
        Call(files.MODEL, state=Call(os.mkdir, "taken-over")),
        b"cos\nsystem\n(S'touch taken-over'\ntR.",
        b"\x80\x02cos\nmkdir\n\x8c\x0ataken-over\x85R.",
        b"\x80\x02cos\nmkdir\n\x8c\x0ataken-over\x85\x81.",
        b"\x80\x02(\x8c\x0ataken-overios\nmkdir\n.",
        b"\x80\x02ccollections\nOrderedDict\n)Rccollections\nOrderedDict.__class__\n)Rb.",
        b"\x80\x02ccollections\nOrderedDict\n\x8c\x05clear\x86\x93.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02P1\n.",
    ],
)
@both
def test_nothing_that_a_file_names_is_run(read, tmp_path, monkeypatch, container, attack):
    monkeypatch.chdir(tmp_path)
    refused(read, container(attack))
    assert not os.path.exists("taken-over")


def test_a_name_is_told_on_one_line(read):
    data = b"\x80\x04\x8c\x04o\ns\x00\x8c\x06system\x93."
    refused(read, as_zip(data), r"names 'o\ns\x00.system'")


@both
def test_a_file_that_is_cut_anywhere_is_refused(read, container):
    data = container(state_of(ARRAYS))
    for end in np.linspace(0, len(data) - 1, 21).astype(int):
        refused(read, data[:end])


@both
def test_changed_bytes_are_an_error_or_other_values(read, container):
    data = container(state_of(ARRAYS))
    rng = np.random.default_rng(1)
    read_well = 0
    for at in rng.integers(0, len(data), 400):
        changed = bytearray(data)
        changed[at] ^= 1 << rng.integers(8)
        try:
            read(bytes(changed))
            read_well += 1
        except DataError as error:
            assert "\n" not in str(error)
    assert read_well < 400


@both
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (7,), (1,)),
        (6, (1,), (1,)),
        (-1, (1,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 3), (1,)),
        (0, (2.0,), (1,)),
        (0, (True,), (1,)),
        (True, (1,), (1,)),
        (0, (2**40, 2**40), (0, 0)),
        (0, (0, 2**62), (1, 1)),
        (0, [2], [1]),
        (0, (1,) * 17, (1,) * 17),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(read, container, offset, shape, strides):
    refused(read, container([tensor(Storage(np.arange(6.0)), offset, shape, strides)]))


def test_a_storage_of_another_size_than_said_is_refused(read):
    refused(read, as_zip([tensor(Storage(np.ones(8), count=9))]), "data/0 has 64 bytes, wanted 72")
    refused(
        read, as_legacy([tensor(Storage(np.ones(8), count=7), shape=())]), "has 8 numbers, wanted 7"
    )
    refused(
        read, as_zip([tensor(Storage(np.ones(8), count=-1), shape=())]), "a storage that is not"
    )
    twice = b"(\x8c\x07storagectorch\nDoubleStorage\n\x8c\x010\x8c\x03cpuK\x01tQ0"
    refused(read, as_zip(b"\x80\x02" + twice + twice.replace(b"K\x01", b"K\x02") + b"N."), "two")
    refused(read, as_zip(b"\x80\x02" + twice + b"N."), "data/0 is missing, wanted 8")
    refused(read, as_legacy(b"\x80\x02" + twice + b"N."), "list of storages")


def test_sizes_are_checked_before_anything_of_that_size_is_made(read):
    huge = Storage(np.ones(1), count=2**50)
    for container in CONTAINERS.values():
        refused(read, container([tensor(huge, shape=())]), "storages of 9007199254740992 bytes")
        one = tensor(Storage(np.ones(1)), 0, (10**9,), (0,))
        refused(read, container([one]), "tensors of 8000000000 bytes")
    zeros = {"zeros": np.zeros(10**6)}
    refused(read, as_zip(state_of(zeros), pack=zipfile.ZIP_DEFLATED), "is compressed")


def test_members_that_lie_on_each_other_are_refused(read):
    plain = io.BytesIO(as_zip(state_of({"a": np.ones(1000)})))
    with zipfile.ZipFile(plain, "a") as archive:
        (big,) = (info for info in archive.infolist() if info.filename == "net/data/0")
        for key in range(1, 9):
            again = zipfile.ZipInfo(f"net/data/{key}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(again, field, getattr(big, field))
            archive.filelist.append(again)
        archive._didModify = True
    refused(read, plain.getvalue(), "members of")


def test_deep_and_circular_values_are_read_and_refused_as_a_state_dict(read_state):
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    refused(read_state, as_zip(deep), "holds a list")
    circular = b"\x80\x02}q\x00\x8c\x01ah\x00s."
    refused(read_state, as_legacy(circular), "holds more than tensors: a")


@both
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "an empty dict"),
        ([], "a list"),
        (tensor(np.ones(2)), "a ndarray"),
        ({"epoch": 1, "model": {"a": tensor(np.ones(2))}}, "more than tensors: epoch, model"),
        ({"state_dict": {"a": 1}}, "more than tensors: a"),
    ],
)
def test_what_is_no_state_dict_is_described(read_state, container, value, text):
    refused(read_state, container(value), text, "wanted a state dict, or one under state_dict")


def test_a_legacy_file_of_another_machine_or_format_is_refused(read):
    refused(read, as_legacy({}, little_endian=False), "big-endian machine")
    refused(
        read, as_legacy({}).replace(b"M\xe9\x03.", b"M\xe8\x03.", 1), "format 1000; wanted 1001"
    )
    refused(read, as_zip({}, order="big").replace(b"big", b"bug"), "Bad CRC-32")
    refused(read, pickle.dumps({"a": 1}), "is a pickle, but none of PyTorch's")


def archive_of_files():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return out.getvalue()


def other_zip(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"N.")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b"\x00" * 600, "is not a file of PyTorch"),
        (b"<!DOCTYPE html>", "is a web page"),
        (gzip.compress(b"x", mtime=0), "is compressed by gzip; unpack it: gunzip"),
        (archive_of_files(), "is a tar archive"),
        (other_zip("a/readme"), "0 members are called data.pkl"),
        (other_zip("a/data.pkl", "b/data.pkl"), "2 members are called data.pkl"),
        (b"PK\x03\x04" + b"\x00" * 100, "is broken or cut short"),
    ],
)
def test_other_files_are_told_apart(read, data, text):
    refused(read, data, text, "wanted a file that torch.save wrote")


def test_a_file_that_is_not_there_or_a_folder_is_told(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        torchfile.read(tmp_path / "net.pt")
    with pytest.raises(DataError, match="Is a directory"):
        torchfile.read(tmp_path)
