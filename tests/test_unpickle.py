import io
import os
import pickle
import struct

import numpy as np
import pytest

from darts_dist.data.unpickle import loads
from darts_dist.errors import DataError


def python2_pickle(rows, labels):
    """Returns the bytes that Python 2 wrote for a CIFAR batch, memo entries and all."""
    height, width = rows.shape
    out = io.BytesIO()
    out.write(b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(")
    out.write(b"".join(b"K" + bytes([label]) for label in labels) + b"e")
    out.write(b"U\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06")
    out.write(b"K\x00\x85U\x01b\x87Rq\x07(K\x01" + struct.pack("<cHcH", b"M", height, b"M", width))
    out.write(b"\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\t")
    out.write(b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
    out.write(b"T" + struct.pack("<i", rows.size) + rows.tobytes() + b"tbu.")
    return out.getvalue()


@pytest.fixture
def batch():
    rows = np.random.default_rng(0).integers(0, 256, (4, 12), np.uint8)
    return python2_pickle(rows, [3, 1, 4, 1]), rows


def test_a_python_2_batch_gives_its_array_and_its_labels(batch):
    data, rows = batch
    value = loads(data, "batch")
    assert value[b"labels"] == [3, 1, 4, 1]
    np.testing.assert_array_equal(value[b"data"], rows)
    assert value[b"data"].dtype == np.uint8


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -2, 300, 70000, 2**40, -(2**70)], "b": 0.25, "c": (None, True, (1, 2, 3, 4))},
        [[], {}, (), "", "Grüße", {"x": {1: [2]}}],
        list(range(3000)),
    ],
)
def test_plain_values_are_read_as_pickle_reads_them(protocol, value):
    assert loads(pickle.dumps(value, protocol), "file") == value


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i4", "<f4", ">f8", "?"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0), (2, 3, 4)])
def test_arrays_of_numbers_are_read_as_pickle_reads_them(protocol, dtype, shape):
    array = np.arange(np.prod(shape), dtype=np.int64).reshape(shape).astype(dtype)
    for stored in (array, np.asfortranarray(array)):
        data = pickle.dumps({"x": stored}, protocol)
        read = loads(data, "file")["x"]
        np.testing.assert_array_equal(read, stored)
        assert read.dtype == pickle.loads(data)["x"].dtype


def test_shared_and_circular_references_are_kept():
    inner = [1]
    ring = [inner, inner]
    ring.append(ring)
    read = loads(pickle.dumps(ring, 2), "file")
    assert read[0] is read[1]
    assert read[2] is read


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
U1 = (
    b"cnumpy\ndtype\nC\x02u1K\x00K\x01\x87R(K\x03C\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
OBJECTS = U1.replace(b"u1", b"O8")


def stated(shape, data, dtype=U1, version=b"K\x01"):
    return b"\x80\x03" + ARRAY + b"(" + version + shape + dtype + b"\x89" + data + b"tb."


HOSTILE = {
    "a shell command": b"cos\nsystem\n(S'touch marker'\ntR.",
    "a shell command by protocol 4": (
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch marker\x85R."
    ),
    "builtins.eval": b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.",
    "numpy.load": b"\x80\x02cnumpy\nload\nX\x01\x00\x00\x00x\x85R.",
    "numpy.ndarray called": b"\x80\x02cnumpy\nndarray\nK\x02\x85R.",
    "numpy.dtype of objects": b"\x80\x03" + OBJECTS + b".",
    "numpy.dtype with fields": b"\x80\x03cnumpy\ndtype\n]K\x00K\x01\x87R.",
    "numpy.dtype of a class": b"\x80\x03cnumpy\ndtype\ncnumpy\nndarray\nK\x00K\x01\x87R.",
    "numpy.dtype with few arguments": b"\x80\x03cnumpy\ndtype\nC\x02u1\x85R.",
    "a dtype as a value": b"\x80\x03" + U1 + b".",
    "a name as a value": b"cnumpy\nndarray\n.",
    "a name in a list": b"](cnumpy\nndarray\ne.",
    "a name in a dict": b"}(K\x01cnumpy\nndarray\nu.",
    "a name in a tuple in a list": b"\x80\x02](cnumpy\nndarray\n\x85e.",
    "_reconstruct of a dict": (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n}K\x00\x85C\x01b\x87R."
    ),
    "_reconstruct of numpy.dtype": (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R."
    ),
    "an array of objects": stated(b"K\x01\x85", b"](Ne", OBJECTS),
    "an array with a list for its bytes": stated(b"K\x02\x85", b"](K\x01K\x02e"),
    "an array of more bytes than there are": stated(b"K\x09\x85", b"C\x02ab"),
    "an array of fewer bytes than there are": stated(b"K\x01\x85", b"C\x02ab"),
    "an array of 2**62 bytes": stated(
        b"\x8a\x08" + (2**62).to_bytes(8, "little") + b"\x85", b"C\x00"
    ),
    "an empty array of huge axes": stated(
        b"(K\x00" + 3 * (b"\x8a\x08" + (2**62).to_bytes(8, "little")) + b"t", b"C\x00"
    ),
    "an array of a negative axis": stated(b"J\xff\xff\xff\xff\x85", b"C\x00"),
    "an array with nine axes": stated(b"(" + b"K\x01" * 9 + b"t", b"C\x01a"),
    "an array with a shape of text": stated(b"C\x01a\x85", b"C\x01a"),
    "an array without a dtype": stated(b"K\x01\x85", b"C\x01a", b"N"),
    "an array state of the wrong length": b"\x80\x03" + ARRAY + b"K\x01\x85b.",
    "a state for a list": b"\x80\x03]}(C\x01aK\x01ub.",
    "a state for a dict": b"\x80\x03}}(C\x0c__setstate__K\x01ub.",
    "a state for nothing": b"Nb.",
    "a persistent id": b"\x80\x02K\x01Q.",
    "a persistent id in text": b"Pthing\n.",
    "INST": b"(ios\nsystem\n.",
    "OBJ": b"\x80\x02(cnumpy\nndarray\nK\x01o.",
    "NEWOBJ": b"\x80\x02cnumpy\nndarray\nK\x01\x85\x81.",
    "an extension code": b"\x80\x02\x82\x01.",
    "a tuple as a key": b"\x80\x02})K\x01s.",
    "a list as a key": b"\x80\x02}]K\x01s.",
    "a huge string": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a negative string": b"\x80\x02T\xff\xff\xff\xff.",
    "a huge integer": b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".",
    "an unknown reference": b"h\x07.",
    "a missing mark": b"e.",
    "an empty stack": b".",
    "an empty file": b"",
    "left over values": b"K\x01K\x02.",
    "an open mark": b"(K\x01.",
    "an odd number of items": b"}(K\x01u.",
    "text that is not UTF-8": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pickle_is_an_error_and_runs_nothing(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"evil\.bin"):
        loads(HOSTILE[what], "evil.bin")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "call",
    [
        Calls(os.mkdir, "marker"),
        Calls(eval, "__import__('os').mkdir('marker')"),
        Calls(np.load, "marker", None, True),
        Calls(np.ndarray, (2**40,)),
        Calls(dict, state=[{"__setstate__": Calls(os.mkdir, "marker")}]),
        np.array([Calls(os.mkdir, "marker")], dtype=object),
        {"data": [Calls(os.mkdir, "marker")]},
    ],
    ids=["mkdir", "eval", "load", "ndarray", "setstate", "objects", "nested"],
)
def test_whatever_python_pickles_as_a_call_is_refused(protocol, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="unsafe"):
        loads(pickle.dumps(call, protocol), "file")
    assert not os.listdir(tmp_path)


def test_a_huge_memo_index_takes_no_memory():
    assert loads(b"\x80\x02K\x01r\xff\xff\xff\xff.", "file") == 1


def test_every_truncation_is_an_error(batch):
    data, _ = batch
    for end in range(len(data)):
        with pytest.raises(DataError):
            loads(data[:end], "cut")


def test_damaged_bytes_give_values_or_an_error_and_nothing_else(batch):
    data, _ = batch
    draw = np.random.default_rng(1)
    read = 0
    for _ in range(5000):
        damaged = bytearray(data)
        for place in draw.integers(0, len(data), draw.integers(1, 4)):
            damaged[place] = draw.integers(0, 256)
        try:
            loads(bytes(damaged), "damaged")
            read += 1
        except DataError:
            pass
    assert 0 < read < 5000
