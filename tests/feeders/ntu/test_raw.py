"""The parser of raw clips: what it reads, every way in which a file can be bad, and ten thousand damaged files."""

from __future__ import annotations

import numpy as np
import pytest

from feeders import DataError
from feeders.ntu.actors import choose_actors
from feeders.ntu.raw import RawClip, parse_skeleton
from tests.feeders.ntu.oracle import Frames, Track, frames_of, read_lines, text_of

FIRST = 72_057_594_037_900_000
SMALL = frames_of(Track(FIRST, 0, 3, 0.3), Track(FIRST + 4, 1, 2, 0.1))
"""Frame 0 has one body, frames 1 and 2 have two: 1 + 28 + 55 + 55 lines."""


def check(clip: RawClip, frames: Frames) -> None:
    """The clip holds these frames, float32 bits included."""
    valid = [dict(frame) for frame in frames if frame]
    assert clip.frames == len(valid)
    order = list(dict.fromkeys(body_id for frame in valid for body_id in frame))
    assert [body.body_id for body in clip.bodies] == order
    for body in clip.bodies:
        samples = [frame[body.body_id] for frame in valid if body.body_id in frame]
        assert body.start == next(t for t, frame in enumerate(valid) if body.body_id in frame)
        assert body.joints.dtype == np.float32
        np.testing.assert_array_equal(body.joints, np.array(samples))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n \n"])
def test_bodies(newline, end):
    frames = [[], *SMALL[:2], [], [], *SMALL[2:], []]
    text = text_of(frames, newline).rstrip() + end.replace("\n", newline).encode()
    check(parse_skeleton(text), read_lines(text))


def test_ids_stay_whole_numbers():
    assert [body.body_id for body in parse_skeleton(text_of(SMALL)).bodies] == [FIRST, FIRST + 4]


def test_blanks_between_fields_do_not_matter():
    text = text_of(SMALL)
    check(parse_skeleton(text.replace(b" ", b"  \t").replace(b"\n", b" \n  ")), read_lines(text))


def test_exponents_and_whole_numbers():
    lines = text_of(SMALL).split(b"\n")
    lines[4] = b"7.450581E-09 -2 1e+1 " + lines[4].split(b" ", 3)[3]
    joint = parse_skeleton(b"\n".join(lines)).bodies[0].joints[0, 0]
    np.testing.assert_array_equal(joint, np.array([7.450581e-09, -2, 10], np.float32))


def test_unused_fields_are_not_read():
    lines = text_of(SMALL).split(b"\n")
    fields = lines[4].split()
    lines[4] = b" ".join([*fields[:3], *[b"NaN"] * 9])
    check(parse_skeleton(b"\n".join(lines)), read_lines(text_of(SMALL)))


def replaced(line: int, content: str | None) -> bytes:
    """The small clip with another line (counted from 1), or without it."""
    lines = text_of(SMALL).decode().split("\n")
    lines[line - 1 : line] = [] if content is None else [content]
    return "\n".join(lines).encode()


def changed(line: int, field: int, content: str) -> bytes:
    fields = text_of(SMALL).decode().split("\n")[line - 1].split()
    fields[field] = content
    return replaced(line, " ".join(fields))


LAST_JOINT = (text_of(SMALL).split(b"\n")[28] + b"\n", b"")
BAD = {
    "empty": (b"", "empty"),
    "blank": (b"\r\n \n", "empty"),
    "no number of frames": (replaced(1, "three"), "line 1: 'three' is not a number of frames"),
    "negative number of frames": (replaced(1, "-3"), "line 1: '-3' is not a number of frames"),
    "huge number of frames": (replaced(1, "9" * 18), "line 139: the file ends after 3 of"),
    "absurd number of frames": (replaced(1, "9" * 5000), "line 1: '9+...' is not a number of frames"),
    "zero frames": (replaced(1, "0"), "line 1: the number of frames is 0"),
    "only empty frames": (b"2\n0\n0\n", "no body in any frame"),
    "more frames than said": (replaced(1, "2"), "line 85: the file continues"),
    "trailing garbage": (text_of(SMALL) + b"garbage\n", "line 140: the file continues"),
    "truncated between frames": (text_of(SMALL[:2]).replace(b"2", b"3", 1), "line 84: the file ends after 2 of 3"),
    "truncated in a body": (b"\n".join(text_of(SMALL).split(b"\n")[:50]), "line 50: the file ends within the 2 bodies"),
    "truncated in a line": (text_of(SMALL)[:-30], r"line 139: \d+ fields, 12 expected"),
    "one body less than said": (replaced(2, "2"), "line 30: 1 field, 10 expected.*the 2 bodies that line 2 says"),
    "one body more than said": (replaced(30, "1"), "line 58: 10 fields where the number of bodies"),
    "many bodies": (replaced(2, "999999999999"), "line 30: 1 field, 10 expected"),
    "number of bodies": (replaced(2, "x"), "line 2: 'x' is not a number of bodies"),
    "negative number of bodies": (replaced(1, "4\n-1"), "line 2: '-1' is not a number of bodies"),
    "short header": (replaced(3, "1 2 3"), "line 3: 3 fields, 10 expected: this should be the header"),
    "bodyID": (changed(3, 0, "7.2E16"), "line 3: '7.2E16' is not a bodyID"),
    "24 joints": (replaced(4, "24"), "line 4: '24' joints, expected 25"),
    "24 joints, truly": (replaced(4, "24").replace(*LAST_JOINT), "line 4: '24' joints, exp"),
    "joint left out": (replaced(10, None), "line 29: 1 field, 12 expected: this should be joint 25"),
    "joint of 11 fields": (replaced(10, " ".join(["1.5"] * 11)), "line 10: 11 fields, 12 expected.*joint 6"),
    "joint of 13 fields": (replaced(10, " ".join(["1.5"] * 13)), "line 10: 13 fields, 12 expected"),
    "blank line": (replaced(10, ""), "line 10: 0 fields, 12 expected"),
    "no number": (changed(10, 1, "1.2.3"), r"line 10: coordinate y is '1\.2\.3'"),
    "underscore": (changed(10, 0, "1_0.5"), "line 10: coordinate x is '1_0.5'"),
    "NaN": (changed(10, 2, "NaN"), "line 10: coordinate z is 'NaN'"),
    "infinite": (changed(10, 0, "-inf"), "line 10: coordinate x"),
    "beyond float32": (changed(10, 0, "1e39"), "line 10: coordinate x is '1e39'"),
    "same body twice": (changed(58, 0, str(FIRST)), f"line 58: bodyID {FIRST} occurs twice"),
    "text in a field that is not used": (changed(10, 5, "west"), "line 10: 'west' is not a number"),
    "text in a header": (changed(3, 9, "tracked"), "line 3: 'tracked' is not a number"),
    "binary": (bytes(range(256)) * 40, "line 1"),
    "not ASCII": (changed(10, 0, "１.5"), "line 10: coordinate x"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line_that_names_the_line(case):
    text, message = BAD[case]
    with pytest.raises(DataError, match=message) as refusal:
        parse_skeleton(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("spelled", ["NaN", "-Infinity", "-1.#IND", "1.#QNAN", "1e-05"])
def test_fields_that_are_not_used_may_hold_no_number_of_ones_own(spelled):
    check(parse_skeleton(changed(10, 5, spelled)), read_lines(changed(10, 5, "1.5")))


def test_ten_thousand_damaged_files():
    rng = np.random.default_rng(0)
    originals = [text_of(SMALL[:2], newline) for newline in ("\n", "\r\n")]
    accepted = refused = 0
    for number in range(10_000):
        text = damage(bytearray(originals[number % 2]), rng)
        try:
            clip = parse_skeleton(text)
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        check(clip, read_lines(text))
        assert np.isfinite(choose_actors(clip).positions).all()
        accepted += 1
    # Much damage hits fields that nobody reads, so both must occur.
    assert accepted > 500
    assert refused > 5000


JUNK = (
    b"nan",
    b"-1",
    b"0",
    b"1e999",
    b"99999999999999999999",
    b"",
    b"\x00",
    b"\xff\xfe",
    b"x",
    b"1_0",
    b"25",
    b"\n",
    b" ",
)


def damage(text: bytearray, rng: np.random.Generator) -> bytes:
    """The text with one to three random changes."""
    for _ in range(rng.integers(1, 4)):
        place, other = sorted(rng.integers(0, len(text) + 1, 2).tolist())
        match rng.integers(0, 7):
            case 0:
                text = text[:place]
            case 1 if place < len(text):
                text[place] = int(rng.integers(256))
            case 2:
                text[place : place + int(rng.integers(1, 20))] = b""
            case 3:
                text[place:place] = text[place : min(other, place + 400)]
            case 4:
                lines = text.split(b"\n")
                i, j = rng.integers(0, len(lines), 2)
                lines[i], lines[j] = lines[j], lines[i]
                text = bytearray(b"\n".join(lines))
            case _:
                fields = text.split(b" ")
                fields[rng.integers(len(fields))] = JUNK[rng.integers(len(JUNK))]
                text = bytearray(b" ".join(fields))
    return bytes(text)


def test_numbers_read_in_bulk_are_those_of_float():
    formats = ("%.7G", "%.9g", "%.6f", "%.17g", "%.14f", "%d")
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(3 * 25 * 200) * 10.0 ** rng.integers(-8, 4, 3 * 25 * 200)
    words = [formats[i] % number for i, number in zip(rng.integers(len(formats), size=15_000), numbers, strict=True)]
    lines = ["200"]
    for frame in range(200):
        lines += ["1", "7 0 0 0 0 0 0 0 0 2", "25"]
        joints = np.array(words[75 * frame : 75 * frame + 75]).reshape(25, 3).tolist()
        lines += [" ".join([*xyz, *["0"] * 9]) for xyz in joints]
    (body,) = parse_skeleton("\n".join(lines).encode()).bodies
    expected = np.array([float(word) for word in words]).astype(np.float32)
    np.testing.assert_array_equal(body.joints.ravel().view(np.int32), expected.view(np.int32))
