"""Parses a raw clip of NTU RGB+D: the text of a `.skeleton` file to the bodies in it.

Records, one a line, of blank-separated fields: the number of frames; per frame the number of bodies; per body a header
of ten fields of which the first is the bodyID, the number of joints (25), and per joint twelve fields of which the
first three are x, y, z in metres. The other fields are not read, since nothing uses them: they are counted, and what
has letters that no number has (with NaN and infinity, which those may be) is an error. So is the first line that does
not fit.

Shapes: n samples of a body, V = 25 joints.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import numpy as np

from feeders.errors import DataError, counted
from feeders.ntu.decimals import parse_decimals
from feeders.ntu.names import NUM_JOINTS

HEADER_FIELDS = 10
JOINT_FIELDS = 12
LONGEST_INTEGER = 19
"""Digits of the largest bodyID that could be; real ones have 17."""

_ALL_JOINTS = str(NUM_JOINTS).encode()
_BODY_RECORDS = [HEADER_FIELDS, 1, *[JOINT_FIELDS] * NUM_JOINTS]
"""Fields of the lines of one body."""
_BLANK, _NEWLINE = 32, 10
_OF_NUMBERS = bytes(range(_BLANK + 1)) + b"0123456789+-.eE" + b"#aAdDfFiInNqQtTyY"
"""Bytes of numbers, of what separates them, and of the spellings of NaN and infinity, such as -1.#IND."""


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


def parse_skeleton(text: bytes) -> RawClip:
    """The bodies in the text of a `.skeleton` file; line ends may be LF or CRLF.

    Raises `DataError`, which names the line but not the file, for text that is not of this format, ends too early or
    goes on too long, has a NaN or infinite coordinate, no frame or no body at all, or one bodyID twice in a frame.
    """
    lines = _Lines(text)
    ids, frame_of_sample, first_joints, frames = _walk(lines)
    coordinates = _read_coordinates(lines, np.array(first_joints)[:, None] + np.arange(NUM_JOINTS))
    _refuse_text(lines)
    rows: dict[int, list[int]] = {}
    for row, body_id in enumerate(ids):
        rows.setdefault(body_id, []).append(row)
    return RawClip(frames, tuple(Body(i, frame_of_sample[r[0]], coordinates[r]) for i, r in rows.items()))


class _Lines:
    """Where lines and fields begin. Every byte up to the blank separates fields."""

    def __init__(self, text: bytes) -> None:
        self.text = text if text.endswith(b"\n") else text + b"\n"
        self.bytes = np.frombuffer(self.text, dtype=np.uint8)
        white = self.bytes <= _BLANK
        begins = np.empty(len(white) + 1, dtype=bool)
        np.greater(white[:-1], white[1:], out=begins[1:-1])
        begins[0] = not white[0]
        begins[-1] = True
        self.field_starts = np.flatnonzero(begins)
        """With the end of the text as the last, so that every field has an end."""
        line_starts = np.append(0, np.flatnonzero(self.bytes == _NEWLINE) + 1)
        self.first_field = np.searchsorted(self.field_starts, line_starts)
        self.fields_in = np.diff(self.first_field).tolist()
        """Number of fields in each line, blank lines at the end left out."""
        while self.fields_in and not self.fields_in[-1]:
            self.fields_in.pop()
        self._starts = self.field_starts[self.first_field].tolist()

    def __len__(self) -> int:
        return len(self.fields_in)

    def first(self, line: int) -> bytes:
        """The first field of a line."""
        return self.text[self._starts[line] : self._starts[line + 1]].split(None, 1)[0]

    def integer(self, line: int, what: str) -> int:
        """The first field of a line as a number without sign."""
        field = self.first(line)
        if not field.isdigit() or len(field) > LONGEST_INTEGER:
            raise _fault(line, f"{_quote(field)} is no {what}")
        return int(field)


def _walk(lines: _Lines) -> tuple[list[int], list[int], list[int], int]:
    """The structure: of each sample the bodyID, the frame and the line of its first joint; the number of frames.

    Frames without a body do not count.
    """
    ids: list[int] = []
    frame_of_sample: list[int] = []
    first_joints: list[int] = []
    if not len(lines):
        raise DataError("the file is empty")
    announced = _count(lines, 0, "number of frames")
    if not announced:
        raise _fault(0, "the number of frames is 0")
    line, frames = 1, 0
    for frame in range(announced):
        if line == len(lines):
            raise _fault(line - 1, f"the file ends after {frame} of {announced} frames")
        count_line, bodies = line, _count(lines, line, "number of bodies")
        seen: set[int] = set()
        line += 1
        for _ in range(bodies):
            if lines.fields_in[line : line + len(_BODY_RECORDS)] != _BODY_RECORDS:
                _explain_body(lines, line, count_line, bodies)
            body_id = lines.integer(line, "bodyID")
            if body_id in seen:
                raise _fault(line, f"bodyID {body_id} occurs twice in one frame")
            if (joints := lines.first(line + 1)) != _ALL_JOINTS:
                raise _fault(line + 1, f"{_quote(joints)} joints, expected {NUM_JOINTS}")
            seen.add(body_id)
            ids.append(body_id)
            frame_of_sample.append(frames)
            first_joints.append(line + 2)
            line += len(_BODY_RECORDS)
        frames += bodies > 0
    if line < len(lines):
        raise _fault(line, f"the file goes on after the {announced} frames that its first line says")
    if not frames:
        raise DataError("no body in any frame")
    return ids, frame_of_sample, first_joints, frames


def _count(lines: _Lines, line: int, what: str) -> int:
    if lines.fields_in[line] != 1:
        raise _fault(line, f"{counted(lines.fields_in[line], 'field')} where the {what} is expected")
    return lines.integer(line, what)


def _read_coordinates(lines: _Lines, joint_lines: np.ndarray) -> np.ndarray:
    """x, y, z of the joints in these lines (samples, V): (samples, V, 3) float32."""
    fields = (lines.first_field[joint_lines][..., None] + np.arange(3)).ravel()
    starts, ends = lines.field_starts[fields], lines.field_starts[fields + 1] - 1
    with np.errstate(over="ignore"):
        coordinates = parse_decimals(lines.bytes, starts, ends).astype(np.float32)
    good = np.isfinite(coordinates)
    if not good.all():
        place = int(np.flatnonzero(~good)[0])
        field = lines.bytes[starts[place] : ends[place]].tobytes().strip()
        raise _fault(int(joint_lines.flat[place // 3]), f"coordinate {'xyz'[place % 3]} is {_quote(field)}, no number")
    return coordinates.reshape(*joint_lines.shape, 3)


def _refuse_text(lines: _Lines) -> None:
    """Refuse text in any field; one pass over the bytes, a twentieth of the time of the rest."""
    if odd := lines.text.translate(None, _OF_NUMBERS):
        place = lines.text.index(odd[:1])
        start, end = lines.field_starts[np.searchsorted(lines.field_starts, place, "right") - 1 :][:2]
        field = lines.text[start:end].strip()
        raise _fault(lines.text.count(b"\n", 0, place), f"{_quote(field)} is no number")


def _explain_body(lines: _Lines, first: int, count_line: int, bodies: int) -> NoReturn:
    """Raise the error for the lines from `first`, which are not those of a body."""
    claim = f"the {'body' if bodies == 1 else f'{bodies} bodies'} that line {count_line + 1} says"
    for offset, expected in enumerate(_BODY_RECORDS):
        line = first + offset
        if line >= len(lines):
            raise _fault(line - 1, f"the file ends within {claim}")
        if offset == 2 and (joints := lines.first(first + 1)) != _ALL_JOINTS:
            raise _fault(first + 1, f"{_quote(joints)} joints, expected {NUM_JOINTS}")
        if (found := lines.fields_in[line]) != expected:
            what = ("the header of a body", "the number of joints")[offset] if offset < 2 else f"joint {offset - 1}"
            raise _fault(line, f"{counted(found, 'field')}, {expected} expected: this should be {what}, of {claim}")
    raise AssertionError("called for a body that is complete")


def _fault(line: int, reason: str) -> DataError:
    return DataError(f"line {line + 1}: {reason}")


def _quote(field: bytes) -> str:
    text = field.decode("ascii", "backslashreplace")
    return repr(text if len(text) <= 30 else text[:30] + "...")
