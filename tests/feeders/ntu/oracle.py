"""The published pipeline once more, slowly and plainly, from its description: bodies, actors, origin.

A clip is a list of frames, a frame a list of (bodyID, joints (25, 3) float32).
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tools.ntu_clips import Body, skeleton_text

Frames = list[list[tuple[int, np.ndarray]]]

BLANKS = bytes(max(byte, 32) for byte in range(256))
"""Control characters separate fields."""


def read_lines(text: bytes) -> Frames:
    """A parse line by line; `ValueError` or `IndexError` where a field or a line is not there."""
    lines = [line.translate(BLANKS).split() for line in text.split(b"\n")]
    at = 1
    frames: Frames = []
    for _ in range(int(lines[0][0])):
        frame = []
        bodies = int(lines[at][0])
        at += 1
        for _ in range(bodies):
            body_id, joints = int(lines[at][0]), int(lines[at + 1][0])
            rows = [[float(field) for field in lines[at + 2 + j][:3]] for j in range(joints)]
            at += 2 + joints
            frame.append((body_id, np.array(rows, dtype=np.float32)))
        frames.append(frame)
    return frames


def expected_rows(frames: Frames) -> np.ndarray:
    """The result of the pipeline, (T, 75) or (T, 150) float32."""
    valid = [frame for frame in frames if frame]
    ids: list[int] = []
    for frame in valid:
        ids += [body_id for body_id, _ in frame if body_id not in ids]
    start = {i: next(t for t, frame in enumerate(valid) if i in dict(frame)) for i in ids}
    samples = {i: np.array([dict(frame)[i] for frame in valid if i in dict(frame)]) for i in ids}
    if len(ids) == 1:
        return translated(samples[ids[0]].reshape(len(valid), 75))
    motion = {i: variance(samples[i]) for i in ids}
    left = [i for i in ids if len(samples[i]) > 11]
    if not left:
        left = [max(ids, key=lambda i: len(samples[i]))]
    for i in list(left):
        if len(left) == 1:
            break
        clean = []
        for sample in samples[i]:
            width = float(sample[:, 0].max() - sample[:, 0].min())
            height = float(sample[:, 1].max() - sample[:, 1].min())
            if not width > 0.8 * height:
                clean.append(sample)
        noisy = len(samples[i]) - len(clean)
        if noisy / len(samples[i]) >= 0.69754:
            left.remove(i)
        elif noisy:
            motion[i] = min(motion[i], variance(np.array(clean)))
    span = {i: (start[i], start[i] + len(samples[i]) - 1) for i in ids}
    result = np.zeros((len(valid), 150), dtype=np.float32)

    def write(i: int, column: int) -> None:
        for offset, sample in enumerate(samples[i]):
            result[start[i] + offset, column : column + 75] = sample.reshape(75)

    left.sort(key=lambda i: motion[i], reverse=True)
    write(left[0], 0)
    hull1, hull2 = span[left[0]], (0, 0)
    for i in left[1:]:
        begin, end = span[i]
        if min(hull1[1], end) - max(hull1[0], begin) <= 0:
            write(i, 0)
            hull1 = (min(hull1[0], begin), max(hull1[1], end))
        elif min(hull2[1], end) - max(hull2[0], begin) <= 0:
            write(i, 75)
            hull2 = (min(hull2[0], begin), max(hull2[1], end))
    if len(left) == 1:
        result = result[:, :75].copy()
    return translated(np.array([row for row in result if row.sum() != 0]))


def variance(samples: np.ndarray) -> float:
    """Sum of the variances of x, y and z, in double precision: no case of the tests is a near tie."""
    return sum(samples[..., axis].astype(np.float64).var() for axis in range(3))


def translated(rows: np.ndarray) -> np.ndarray:
    """Joint 2 of actor 1 in its first frame becomes the origin."""
    first = next(row for row in rows if row[:75].any())
    origin = first[3:6].copy()
    moved = rows.copy()
    for row, old in zip(moved, rows, strict=True):
        for actor in range(rows.shape[1] // 75):
            columns = slice(75 * actor, 75 * actor + 75)
            if rows.shape[1] == 150 and old[columns].sum() == 0:
                continue
            row[columns] = (old[columns].reshape(25, 3) - origin).reshape(75)
    return moved


def text_of(frames: Frames, newline: str = "\n") -> bytes:
    """The clip as a file."""
    bodies = [[Body(*body) for body in frame] for frame in frames]
    return skeleton_text(bodies, newline, np.random.default_rng(0))


class Track:
    """A body for the tests: a figure 1.8 m high and 0.6 m wide that walks back and forth."""

    def __init__(self, body_id: int, start: int, samples: int, motion: float, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, body_id % 2**32])
        figure = rng.uniform(-1, 1, (25, 3)) * (0.3, 0.9, 0.1)
        figure[0, :2], figure[1, :2] = (-0.3, -0.9), (0.3, 0.9)
        walk = motion * np.linspace(-1, 1, samples)
        self.body_id, self.start = body_id, start
        self.joints = (figure + (0.5, 0.2, 3.0) + walk[:, None, None] * (1, 0, 1)).round(4).astype(np.float32)

    def widen(self, samples: slice | Sequence[int], width: float, height: float) -> Track:
        """Give these samples exactly this width and height."""
        chosen = self.joints[samples]
        chosen[..., 0] = np.clip(chosen[..., 0], 0, width)
        chosen[..., 1] = np.clip(chosen[..., 1], 0, height)
        chosen[:, 0, :2], chosen[:, 1, :2] = 0, (width, height)
        self.joints[samples] = chosen
        return self


def frames_of(*tracks: Track) -> Frames:
    """The tracks as frames, from 0 to the end of the last."""
    length = max(track.start + len(track.joints) for track in tracks)
    return [
        [(t.body_id, t.joints[f - t.start]) for t in tracks if 0 <= f - t.start < len(t.joints)] for f in range(length)
    ]


def unpack_tree(shared: Path, place: Path) -> Path:
    """The published raw tree, unpacked."""
    with tarfile.open(shared / "parity" / "ntu_pipeline" / "raw_tree.tar.gz") as archive:
        archive.extractall(place, filter="data")
    return place
