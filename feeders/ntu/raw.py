"""Parses a raw clip of NTU RGB+D: the text of a `.skeleton` file to the bodies in it.

Records, one a line, of blank-separated fields: the number of frames; per frame the number of bodies; per body a header
of ten fields of which the first is the bodyID, the number of joints (25), and per joint twelve fields of which the
first three are x, y, z in metres. The other fields are not used, but must look like numbers, NaN or infinity.

Files that look as the official ones do go through NumPy's text parser. All others are read again line by line, which
takes several times as long, accepts any blanks, and says which line is wrong.

Shapes: n samples of a body, V = 25 joints.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np

from feeders.errors import DataError, counted
from feeders.ntu.names import NUM_JOINTS

HEADER_FIELDS = 10
JOINT_FIELDS = 12
LONGEST_INTEGER = 19
"""Digits of the largest bodyID that could be; real ones have 17."""

_BODY_LINES = 2 + NUM_JOINTS
_BODY_FIELDS = [HEADER_FIELDS, 1, *[JOINT_FIELDS] * NUM_JOINTS]
"""Fields of the lines of one body."""
_OF_NUMBERS = b"0123456789+-.eE" + b"#aAdDfFiInNqQtTyY"
"""Bytes of numbers and of the spellings of NaN and infinity, such as -1.#IND."""
_BLANKS = bytes(max(byte, 32) for byte in range(256))
"""Translates control characters, which separate fields, to blanks."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Body(NamedTuple):
    """All samples of one bodyID.

    start: number of the frame of its first sample, among the frames that have a body. joints: (n, V, 3) float32.
    """

    body_id: int
    start: int
    joints: np.ndarray


class RawClip(NamedTuple):
    """What is in a file: the number of frames that have a body, at least 1, and the bodies by first appearance."""

    frames: int
    bodies: tuple[Body, ...]


class _Samples(NamedTuple):
    """Every body in every frame: its bodyID, its frame among those that have a body, and its joints (n, V, 3) float32;
    and how many frames have a body."""

    ids: list[int]
    frame_of: list[int]
    joints: np.ndarray
    frames: int


def parse_skeleton(text: bytes) -> RawClip:
    """The bodies in the text of a `.skeleton` file; line ends may be LF or CRLF.

    Raises `DataError`, which names the line but not the file, for text that is not of this format, ends too early or
    late, has a NaN or infinite coordinate, no frame or no body at all, or one bodyID twice in a frame.
    """
    try:
        samples = _read_fast(text)
    except (ValueError, IndexError, DeprecationWarning):
        samples = _read_by_line(text)
    rows: dict[int, list[int]] = {}
    for row, body_id in enumerate(samples.ids):
        rows.setdefault(body_id, []).append(row)
    bodies = [Body(body_id, samples.frame_of[r[0]], samples.joints[r]) for body_id, r in rows.items()]
    return RawClip(samples.frames, tuple(bodies))


def _read_fast(text: bytes) -> _Samples:
    """The samples of a text with single blanks between fields; another error than `DataError` for any other text."""
    text = text.rstrip() + b"\n"
    if text.translate(None, b" \r\n" + _OF_NUMBERS):
        raise ValueError("text")
    data = np.frombuffer(text, np.uint8)
    blanks, ends = np.flatnonzero(data == ord(" ")), np.flatnonzero(data == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    first_blanks = np.searchsorted(blanks, starts)
    fields = (np.diff(first_blanks, append=len(blanks)) + 1).tolist()

    def parts(begins: np.ndarray, ends: np.ndarray) -> list[bytes]:
        return [text[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]

    frame_of: list[int] = []
    body_lines: list[int] = []
    line, frames = 1, 0
    for _ in range(int(text[: ends[0]])):
        bodies = int(text[starts[line] : ends[line]])
        line += 1
        if bodies < 0:
            raise ValueError("bodies")
        for _ in range(bodies):
            if fields[line : line + _BODY_LINES] != _BODY_FIELDS:
                raise ValueError("body")
            frame_of.append(frames)
            body_lines.append(line)
            line += _BODY_LINES
        frames += bodies > 0
    if line != len(ends) or not body_lines:
        raise ValueError("length")
    headers = np.array(body_lines)
    ids = [int(word) for word in parts(starts[headers], blanks[first_blanks[headers]])]
    if not 0 <= min(ids) <= max(ids) < 10**LONGEST_INTEGER or len({*zip(frame_of, ids, strict=True)}) < len(ids):
        raise ValueError("bodyID")
    if {word.rstrip() for word in parts(starts[headers + 1], ends[headers + 1])} != {b"%d" % NUM_JOINTS}:
        raise ValueError("joints")
    joint_lines = (headers[:, None] + np.arange(2, _BODY_LINES)).ravel()
    coordinates = parts(starts[joint_lines], blanks[first_blanks[joint_lines] + 2])
    with warnings.catch_warnings(action="error"):  # for text that is not read to its end
        numbers = np.fromstring(b" ".join(coordinates), np.float64, sep=" ")
    with np.errstate(over="ignore"):
        joints = numbers.astype(np.float32).reshape(len(ids), NUM_JOINTS, 3)
    if not np.isfinite(joints).all():
        raise ValueError("coordinate")
    return _Samples(ids, frame_of, joints, frames)


def _read_by_line(text: bytes) -> _Samples:
    """The same of any text; `DataError` names the first line that does not fit."""
    lines = [line.translate(_BLANKS).split() for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError("the file is empty")
    announced = _count(lines, 0, "number of frames")
    if not announced:
        raise _fault(0, "the number of frames is 0")
    ids: list[int] = []
    frame_of: list[int] = []
    joints: list[list[list[float]]] = []
    line, frames = 1, 0
    for frame in range(announced):
        if line == len(lines):
            raise _fault(line - 1, f"the file ends after {frame} of {announced} frames")
        count_line, bodies = line, _count(lines, line, "number of bodies")
        line += 1
        seen: set[int] = set()
        for _ in range(bodies):
            _check_layout(lines, line, count_line, bodies)
            body_id = _integer(lines, line, "bodyID")
            if body_id in seen:
                raise _fault(line, f"bodyID {body_id} occurs twice in one frame")
            seen.add(body_id)
            ids.append(body_id)
            frame_of.append(frames)
            _check_numbers(lines, line, start=1)
            joints.append([_coordinates(lines, joint) for joint in range(line + 2, line + _BODY_LINES)])
            line += _BODY_LINES
        frames += bodies > 0
    if line < len(lines):
        raise _fault(line, f"the file continues after the {announced} frames that its first line says")
    if not frames:
        raise DataError("no body in any frame")
    return _Samples(ids, frame_of, np.array(joints, np.float32), frames)


def _count(lines: list[list[bytes]], line: int, what: str) -> int:
    if len(lines[line]) != 1:
        raise _fault(line, f"{counted(len(lines[line]), 'field')} where the {what} is expected")
    return _integer(lines, line, what)


def _integer(lines: list[list[bytes]], line: int, what: str) -> int:
    """The first field of a line as a number without sign."""
    field = lines[line][0]
    if not field.isdigit() or len(field) > LONGEST_INTEGER:
        raise _fault(line, f"{_quote(field)} is not a {what}")
    return int(field)


def _check_layout(lines: list[list[bytes]], first: int, count_line: int, bodies: int) -> None:
    """Raise the error for the first of the lines from `first` that does not have as many fields as a body's has."""
    claim = f"the {'body' if bodies == 1 else f'{bodies} bodies'} that line {count_line + 1} says"
    for offset, expected in enumerate(_BODY_FIELDS):
        line = first + offset
        if line >= len(lines):
            raise _fault(line - 1, f"the file ends within {claim}")
        if (found := len(lines[line])) != expected:
            what = ("the header of a body", "the number of joints")[offset] if offset < 2 else f"joint {offset - 1}"
            raise _fault(line, f"{counted(found, 'field')}, {expected} expected: this should be {what}, of {claim}")
        if offset == 1 and lines[line][0] != str(NUM_JOINTS).encode():
            raise _fault(line, f"{_quote(lines[line][0])} joints, expected {NUM_JOINTS}")


def _coordinates(lines: list[list[bytes]], line: int) -> list[float]:
    """x, y and z of a joint."""
    numbers = []
    for axis, field in zip("xyz", lines[line], strict=False):
        try:
            # `float` takes 1_000 for a number, this format does not.
            number = math.nan if b"_" in field else float(field)
        except ValueError:
            number = math.nan
        if not abs(number) <= _FLOAT32_MAX:
            raise _fault(line, f"coordinate {axis} is {_quote(field)}, not a finite number")
        numbers.append(number)
    _check_numbers(lines, line, start=3)
    return numbers


def _check_numbers(lines: list[list[bytes]], line: int, start: int) -> None:
    """Refuse text in the fields that are not used."""
    for field in lines[line][start:]:
        if field.translate(None, _OF_NUMBERS):
            raise _fault(line, f"{_quote(field)} is not a number")


def _fault(line: int, reason: str) -> DataError:
    return DataError(f"line {line + 1}: {reason}")


def _quote(field: bytes) -> str:
    text = field.decode("ascii", "backslashreplace")
    return repr(text if len(text) <= 30 else text[:30] + "...")
