"""Pickled score files: honest ones of every protocol are read, crafted ones neither run, crash nor fill the memory."""

from __future__ import annotations

import os
import pickle
import re
import struct
import tracemalloc

import numpy as np
import pytest

from common.pickles import PickleRefusedError
from fusion.published_scores import read_pickled_scores
from fusion.scores import ScoresError, load_scores

LOGITS = np.array([[0.5, -1, 2], [3, 4.25, -5], [0, 0, 1e-3]], np.float32)
NAMES = ["test_0", "test_1", "test_2"]


@pytest.fixture
def read(tmp_path):
    """Read bytes as a pickled score file."""

    def load(data):
        path = tmp_path / "epoch1_test_score.pkl"
        path.write_bytes(data)
        return load_scores(path)

    return load


@pytest.fixture
def refusal(read):
    """The message by which bytes are refused."""

    def message(data):
        with pytest.raises(ScoresError) as caught:
            read(data)
        text = str(caught.value)
        assert "epoch1_test_score.pkl: no pickled score file: " in text
        assert "\n" not in text
        assert len(text) < 500
        return text

    return message


# A tiny assembler of pickles, for files that no honest writer makes.


class Code(bytes):
    """Instructions that leave one value on the stack."""


def code(value):
    if isinstance(value, Code):
        return value
    if isinstance(value, bool) or value is None:
        return {True: b"\x88", False: b"\x89", None: b"N"}[value]
    if isinstance(value, int):
        digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(digits)]) + digits
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(code, value)) + b"t"
    assert isinstance(value, dict)
    return b"}(" + b"".join(code(item) for pair in value.items() for item in pair) + b"u"


def named(spelled):
    module, _, name = spelled.rpartition(" ")
    return Code(f"c{module}\n{name}\n".encode())


def call(spelled, *arguments: object):
    return Code(named(spelled) + code(arguments) + b"R")


def build(target, state):
    return Code(target + code(state) + b"b")


def dtype(name="f4", order="<", fields=(None, None, None), sizes=(-1, -1), flags=0):
    return build(call("numpy dtype", name, False, True), (3, order, *fields, *sizes, flags))


def vector(data=b"\0" * 8, shape=(2,), number=None, version=1):
    empty = call("numpy.core.multiarray _reconstruct", named("numpy ndarray"), (0,), b"b")
    return build(empty, (version, shape, dtype() if number is None else number, False, data))


def file(value):
    return b"\x80\x03" + code(value) + b"."


def test_assembler_makes_honest_pickles(read):
    data = file({"a": vector(struct.pack("<2f", 1.5, -2)), "b": vector(struct.pack("<2f", 3, 4))})
    assert {name: row.tolist() for name, row in pickle.loads(data).items()} == {"a": [1.5, -2], "b": [3, 4]}
    scores = read(data)
    assert scores.names == ["a", "b"]
    assert scores.logits.tolist() == [[1.5, -2], [3, 4]]


def respelled(data, new, old):
    """A pickle with the modules of another numpy, whose lengths are spelled out from protocol 4 on."""
    for module in (b"multiarray", b"numeric"):
        for prefix in (b"\x8c", b""):
            before, after = new + module, old + module
            if prefix:
                before, after = (prefix + bytes([len(name)]) + name for name in (before, after))
            data = data.replace(before, after)
    return data


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."])
def test_protocols_and_spellings(read, protocol, core):
    names = ["test_0", np.int64(300), 7]
    data = pickle.dumps(dict(zip(names, LOGITS, strict=True)), protocol=protocol)
    here = re.search(rb"numpy\._?core\.", data).group()
    scores = read(respelled(data, here, core))
    assert scores.names == ["test_0", "300", "7"]
    assert (scores.logits == LOGITS).all()
    assert scores.labels is None
    assert scores.stream is None


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("number", ["<f4", ">f4", "<f8", ">f2", "<i8", ">i4"])
def test_number_types(read, protocol, number):
    rows = np.array([[1, -2, 3], [4, 5, -6]], number)
    scores = read(pickle.dumps({"a": rows[0], "b": rows[1]}, protocol=protocol))
    assert scores.logits.dtype == np.float32
    assert scores.logits.tolist() == [[1, -2, 3], [4, 5, -6]]


@pytest.mark.parametrize("protocol", range(6))
def test_rows_that_are_not_contiguous_or_read_only(read, protocol):
    table = np.asfortranarray(LOGITS)
    frozen = LOGITS[1].copy()
    frozen.setflags(write=False)
    scores = read(pickle.dumps({np.int32(4): table[0], np.uint8(9): frozen}, protocol=protocol))
    assert scores.names == ["4", "9"]
    assert (scores.logits == LOGITS[:2]).all()


@pytest.mark.parametrize("kind", ["ucla_like", "ntu_like"])
@pytest.mark.parametrize("stream", ["joint", "bone", "joint_motion", "bone_motion", "bone_shuffled"])
def test_fixtures(shared, kind, stream):
    path = shared / "parity" / "ensemble" / f"{kind}_{stream}_test_score.pkl"
    expected = pickle.loads(path.read_bytes())
    scores = load_scores(path)
    assert scores.names == [str(name) for name in expected]
    assert (scores.logits == np.stack(list(expected.values()))).all()


class Harm:
    """What an attacker would have unpickled: a call of anything."""

    def __init__(self, function, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple:
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_not_run(refusal, tmp_path, protocol):
    trace = tmp_path / "trace"
    for harm in (
        Harm(os.system, f"touch {trace}"),
        Harm(eval, f"open({str(trace)!r}, 'w')"),
        Harm(getattr, "text", "upper"),
        Harm(np.load, str(trace)),
    ):
        for content in (harm, {"test_0": harm}, {"test_0": LOGITS[0], "test_1": (harm,)}, {harm: LOGITS[0]}):
            assert "it asks for" in refusal(pickle.dumps(content, protocol=protocol))
    assert not trace.exists()


def test_what_is_asked_for_is_named(refusal):
    assert "'posix system'" in refusal(file({"a": call("posix system", "true")}))


FORGED = {
    "object array": vector(b"\x01" * 16, number=dtype("O8", "|")),
    "object code": vector(number=dtype("O")),
    "record type": vector(number=dtype("V8")),
    "text type": vector(number=dtype("U2")),
    "type spelled as struct": vector(number=call("numpy dtype", (("a", "f4"),), False, True)),
    "flags": vector(number=dtype(flags=63)),
    "fields": vector(number=dtype(fields=(None, ("a",), None))),
    "element size": vector(number=dtype(sizes=(10**9, 1))),
    "byte order": vector(number=dtype(order="!")),
    "long type state": vector(number=build(dtype(), (3, "<", None, None, None, -1, -1, 0, {}))),
    "too few bytes": vector(b"\0" * 4),
    "too many bytes": vector(b"\0" * 12),
    "huge shape": vector(shape=(2**62,)),
    "shape beyond 64 bits": vector(shape=(2**700,)),
    "negative shape": vector(shape=(-1,)),
    "two dimensions": vector(shape=(1, 2)),
    "no dimension": vector(b"\0" * 4, shape=()),
    "shape of text": vector(shape=("2",)),
    "text as bytes": vector("\0" * 8),
    "objects as bytes": vector(("a", "b")),
    "no type": vector(number=7),
    "unknown version": vector(version=2),
    "two states": build(vector(), (1, (2,), dtype(), False, b"\0" * 8)),
    "no state": call("numpy.core.multiarray _reconstruct", named("numpy ndarray"), (0,), b"b"),
    "filled at once": call("numpy.core.multiarray _reconstruct", named("numpy ndarray"), (2**40,), b"b"),
    "other class": call("numpy.core.multiarray _reconstruct", named("numpy dtype"), (0,), b"b"),
    "ndarray called": call("numpy ndarray", (2,), dtype(), b"\0" * 8),
    "ndarray changed": build(named("numpy ndarray"), {"__array_priority__": 1}),
    "constructor changed": build(named("numpy dtype"), (None, {"function": 1})),
    "a constructor": named("numpy dtype"),
    "a type": dtype(),
    "a number": 3,
    "text": "0.1 0.2",
    "nothing": None,
    "buffer of objects": call("numpy.core.numeric _frombuffer", b"\0" * 8, dtype("O"), (1,), "C"),
    "buffer too short": call("numpy.core.numeric _frombuffer", b"\0" * 4, dtype(), (2,), "C"),
    "buffer in odd order": call("numpy.core.numeric _frombuffer", b"\0" * 8, dtype(), (2,), "K"),
    "encoded otherwise": vector(call("_codecs encode", "nhgu", "rot13")),
    "encoded as utf-8": vector(call("_codecs encode", "\0" * 8, "utf-8")),
    "beyond latin-1": vector(call("_codecs encode", "\u0416" * 8, "latin1")),
    "encoded bytes": vector(call("_codecs encode", b"\0" * 8, "latin1")),
    "wrong number of arguments": vector(call("_codecs encode", "\0" * 8)),
    "arguments that are no tuple": Code(named("numpy dtype") + code("f4") + b"R"),
    "persistent object": Code(b"Pabc\n"),
    "extension": Code(b"\x82\x01"),
    "instance": Code(b"(inumpy\nndarray\n"),
    "new object": Code(named("numpy ndarray") + code(((2,),)) + b"\x81"),
    "list": Code(b"]"),
    "second dictionary": {},
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_arrays(refusal, what):
    refusal(file({"a": FORGED[what]}))
    refusal(file({"a": vector(), "b": FORGED[what]}))


@pytest.mark.parametrize(
    "name",
    [
        None,
        True,
        b"a",
        ("a",),
        2**64,
        vector(),
        Code(b"G" + struct.pack(">d", 0.5)),
        call("numpy.core.multiarray scalar", dtype("f8"), b"\0" * 8),
        call("numpy.core.multiarray scalar", dtype("i8"), b"\0" * 4),
        call("numpy.core.multiarray scalar", dtype("O"), b"\0" * 8),
    ],
)
def test_names_that_are_none(refusal, name):
    refusal(file({name: vector()}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (file({}), "no clip"),
        (file("scores"), "no dictionary"),
        (file(vector()), "no dictionary"),
        (file({"a": vector(), "b": vector(b"\0" * 4, (1,))}), "different lengths, from 1 to 2"),
        (file({"a": vector(b"", (0,))}), "without scores"),
        (b"\x80\x03}(" + 2 * (code("a") + vector()) + b"u.", "two entries for 'a'"),
        (b"\x80\x03}(" + code("7") + vector() + code(7) + vector() + b"u.", "two entries for clip '?7'?"),
        (b"\x80\x03}(" + code("a") + b"u.", "damaged"),
        (b"\x80\x03" + code("a") + vector() + b"s.", "damaged"),
        (b"", "truncated"),
        (b".", "damaged"),
        (b"\x80\x03h\x05.", "damaged"),
        (b"PK\x03\x04", "truncated or damaged|does not belong"),
    ],
)
def test_files_that_hold_something_else(refusal, data, message):
    assert re.search(message, refusal(data))


def test_nan_is_refused(read):
    with pytest.raises(ScoresError, match="NaN or infinite logits in 1 of 2"):
        read(pickle.dumps({"a": np.array([1, 2], "f4"), "b": np.array([np.nan, 2], "f4")}))
    with pytest.raises(ScoresError, match="infinite"):
        read(pickle.dumps({"a": np.array([1, 1e300])}))


@pytest.mark.parametrize("protocol", range(6))
def test_every_truncation_is_refused(protocol):
    data = pickle.dumps({np.int64(0): LOGITS[0], "test_1": LOGITS[1]}, protocol=protocol)
    for length in range(len(data)):
        with pytest.raises(PickleRefusedError):
            read_pickled_scores(data[:length])


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in a mutated text that protocol 0 escapes
@pytest.mark.parametrize("protocol", range(6))
def test_mutated_files_are_read_or_refused(protocol):
    whole = pickle.dumps({np.int64(0): LOGITS[0], "test_1": LOGITS[1], 2: LOGITS[2]}, protocol=protocol)
    rng = np.random.default_rng(protocol)
    refused = 0
    for _ in range(400):
        mutated = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            start, size = rng.integers(len(mutated)), rng.integers(0, 6)
            mutated[start : start + rng.integers(0, 6)] = rng.bytes(size)
        try:
            names, logits = read_pickled_scores(bytes(mutated))
        except PickleRefusedError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert logits.shape[0] == len(names) <= 3
    assert refused > 100


def deep_tuple(depth):
    return Code(b"N" + b"\x85" * depth)


BOMBS = {
    "nested tuple as a name": file({deep_tuple(200_000): vector()}),
    "nested tuple as a row": file({"a": deep_tuple(200_000)}),
    "nested tuple as a shape": file({"a": vector(shape=deep_tuple(200_000))}),
    "nested tuple as a state": file({"a": build(call("numpy dtype", "f4", False, True), deep_tuple(200_000))}),
    "nested marks": b"\x80\x03" + b"(" * 200_000,
    "tuple that doubles": file({Code(b")" + b"2\x86" * 100): vector()}),
    "tuple that doubles through the memo": file({Code(b")" + b"q\x00h\x00\x86" * 100): vector()}),
    "dictionary within itself": b"\x80\x03}q\x00(" + code("a") + b"h\x00u.",
    "bytes of 2 ** 60": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"a.",
    "byte array of 2 ** 36": b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"a.",
    "frame of 2 ** 60": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b".",
    "integer of many digits": b"I" + b"9" * 100_000 + b"\n.",
    "text encoded over and over": b"\x80\x02"
    + code("x" * 100_000)
    + b"q\x00"
    + b"".join(named("_codecs encode") + b"h\x00" + code("latin1") + b"\x86R" for _ in range(5_000))
    + b".",
    "one array under many names": b"\x80\x03}("
    + code("first")
    + vector(b"\0" * 400_000, (100_000,))
    + b"q\x00"
    + b"".join(code(f"{number}") + b"h\x00" for number in range(20_000))
    + b"u.",
}


@pytest.mark.parametrize("what", BOMBS)
def test_bombs(refusal, what):
    refusal(BOMBS[what])


@pytest.mark.parametrize("what", ["byte array of 2 ** 36", "text encoded over and over", "one array under many names"])
def test_bombs_do_not_fill_the_memory(refusal, what):
    tracemalloc.start()
    try:
        refusal(BOMBS[what])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50 * 2**20


def test_memo_of_a_far_index_costs_nothing(read):
    far = code("a") + b"r\xff\xff\xff\xff"  # LONG_BINPUT 2 ** 32 - 1: an array of that length in a memo that is a list
    tracemalloc.start()
    try:
        scores = read(b"\x80\x03}(" + far + vector() + b"u.")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert scores.names == ["a"]
    assert peak < 2**20
