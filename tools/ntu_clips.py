"""Generates raw trees like those of NTU RGB+D: files `.skeleton` of any number of clips, for tests and benchmarks.

The people and actions are those of the demo data set, written as the Kinect v2 sensor saw them: several bodies with
ids of their own, lost and found again, and things that it took for bodies. Each clip depends on the seed and its
number alone, not on how many there are.

Shapes: T frames, V = 25 joints.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from feeders.demo.actions import ACTIONS
from feeders.demo.generator import perform
from feeders.demo.people import draw_person, draw_take
from feeders.ntu.names import NUM_JOINTS, SUFFIX, ClipName, Dataset

FOLDERS = ("nturgb+d_skeletons", "nturgb+d_skeletons120")
"""The official folders: set-ups 1 to 17, and the others."""
ARCHIVES = ("nturgbd_skeletons_s001_to_s017.zip", "nturgbd_skeletons_s018_to_s032.zip")

BYSTANDER, SHORT_NOISE, WIDE_NOISE, GAP, NEW_ID, EMPTY_FRAMES = 0.03, 0.08, 0.05, 0.03, 0.05, 0.05
"""Shares of clips with a third person, a noise body of few frames, one wider than high, a body that vanishes for some
frames, one that comes back under another id, and frames without any body."""

NOISE = 0.001
"""Standard deviation of the sensor noise in metres."""
SHORTEST, LONGEST = 24, 300
COMMON_FRAMES, FRAMES_SPREAD = 71.0, 0.4
"""Frames of a clip, log-normal: their mean is about 80."""
SECOND_PERSON = 0.01
"""Share of one-person clips with a second person; with all others who appear, a fifth of the clips has two."""

_NAMES, _CLIP = 0, 1
"""The two kinds of random sources."""


class Body(NamedTuple):
    """A body in one frame: its id, and its joints (V, 3) in metres."""

    body_id: int
    joints: np.ndarray


def generate_names(dataset: Dataset, seed: int = 0) -> Iterator[ClipName]:
    """Different names of usable clips in random order, without end until all are used up."""
    rng = np.random.default_rng([seed, _NAMES])
    sizes = (dataset.setups, 3, dataset.subjects, 2, dataset.actions)
    for number in rng.permutation(int(np.prod(sizes))):
        name = ClipName(*(int(field) + 1 for field in np.unravel_index(number, sizes)))
        if (name.setup <= 17) == (name.action <= 60) and str(name) not in dataset.missing:
            yield name


def generate_tree(place: Path, dataset: Dataset, clips: int, seed: int = 0, archives: bool = False) -> list[ClipName]:
    """Write that many clips below `place`, into the two official folders or the two official archives.

    Every second clip has the line ends of the official files, the others those of copies. Returns the names, in the
    order of generation. Raises `OSError` when they cannot be written.
    """
    names = list(islice(generate_names(dataset, seed), clips))
    place.mkdir(parents=True, exist_ok=True)
    for later in (False, True):
        chosen = [(i, name) for i, name in enumerate(names) if (name.setup > 17) == later]
        if not chosen:
            continue
        if not archives:
            (place / FOLDERS[later]).mkdir(exist_ok=True)
            for i, name in chosen:
                (place / FOLDERS[later] / f"{name}{SUFFIX}").write_bytes(generate_clip(name.action, seed, i))
            continue
        with zipfile.ZipFile(place / ARCHIVES[later], "w", zipfile.ZIP_DEFLATED) as archive:
            for i, name in chosen:
                archive.writestr(f"{FOLDERS[later]}/{name}{SUFFIX}", generate_clip(name.action, seed, i))
    return names


def generate_clip(action: int, seed: int, number: int) -> bytes:
    """The text of one clip: 24 to 300 frames, about 80 on average."""
    rng = np.random.default_rng([seed, _CLIP, number])
    return skeleton_text(generate_bodies(action, rng), "\r\n" if number % 2 == 0 else "\n", rng)


def generate_bodies(action: int, rng: np.random.Generator) -> list[list[Body]]:
    """What the sensor saw, frame by frame; the number of an action decides the movement and whether two persons act."""
    positions = _perform(action, rng)
    frames, persons = positions.shape[:2]
    first_id = _draw_id(rng)
    # Neighbouring ids do occur; as float64 numbers these would be the same.
    ids = [first_id + 4 * i for i in range(persons)] if rng.random() < 0.2 else [_draw_id(rng) for _ in range(persons)]
    tracks = [_Track(ids[person], 0, positions[:, person]) for person in range(persons)]
    if rng.random() < NEW_ID:
        track = tracks.pop()
        tracks += [track.cut(0, frames // 2), track.cut(frames // 2 + 2, frames)._replace(body_id=_draw_id(rng))]
    if rng.random() < GAP:
        tracks.append(_Track(_draw_id(rng), 0, positions[:, 0] + (1.5, 0.0, 0.5)))
        tracks += [tracks[-1].cut(frames * 2 // 3, frames), tracks.pop().cut(0, frames // 2)]
    if rng.random() < SHORT_NOISE:
        tracks.append(_Track(_draw_id(rng), 3, positions[3 : 3 + rng.integers(1, 12), 0] + (0.5, 0.0, 1.0)))
    if rng.random() < WIDE_NOISE:
        tracks.append(_Track(_draw_id(rng), 0, positions[:, 0][..., [1, 0, 2]] + (0.0, 1.0, 0.0)))
    seen = [[Body(t.body_id, t.joints[f - t.start]) for t in tracks if t.covers(f)] for f in range(frames)]
    if rng.random() < EMPTY_FRAMES:
        seen[frames // 2 : frames // 2] = [[], []]
    return seen


def _perform(action: int, rng: np.random.Generator) -> np.ndarray:
    """One, two or three persons in the camera's axes: (T, M, V, 3), float64 metres."""
    people = (draw_person(rng), draw_person(rng))
    frames = round(float(np.exp(rng.normal(np.log(COMMON_FRAMES), FRAMES_SPREAD))))
    take = draw_take(people[0], rng.uniform(-45, 45), rng)
    take = replace(take, num_frames=min(max(frames, SHORTEST), LONGEST))
    positions = perform(ACTIONS[action % len(ACTIONS)], people, take)
    offset = np.array([0.0, -0.8, rng.uniform(2.5, 4.0)])
    positions = positions + offset
    backwards = positions[::-1, :1]
    if positions.shape[1] == 1 and rng.random() < SECOND_PERSON:
        positions = np.concatenate([positions, backwards - (0.8, 0.0, 0.0)], axis=1)
    if rng.random() < BYSTANDER:
        positions = np.concatenate([positions, backwards * (0.9, 1.0, 1.0) + (1.2, 0.0, 0.4)], axis=1)
    return positions + rng.standard_normal(positions.shape) * NOISE


def skeleton_text(frames: Sequence[Sequence[Body]], newline: str, rng: np.random.Generator) -> bytes:
    """Frames of bodies in the text format of NTU RGB+D, numbers with seven significant digits.

    What the pipeline does not read (projections, orientations, states) is plausible or random.
    """
    parts = [f"{len(frames)}\n"]
    for bodies in frames:
        parts.append(f"{len(bodies)}\n")
        for body in bodies:
            lean = rng.uniform(-0.3, 0.3, 2)
            parts.append(f"{body.body_id} 0 1 1 1 1 0 {lean[0]:.7G} {lean[1]:.7G} 2\n{NUM_JOINTS}\n")
            parts.append(_JOINT_LINES % tuple(_joint_records(body.joints, rng).ravel().tolist()))
    return "".join(parts).replace("\n", newline).encode("ascii")


class _Track(NamedTuple):
    """A body over the frames `start`, `start` + 1, ..."""

    body_id: int
    start: int
    joints: np.ndarray

    def cut(self, first: int, end: int) -> _Track:
        """The part in the frames `first` .. `end` - 1."""
        return self._replace(start=first, joints=self.joints[first - self.start : end - self.start])

    def covers(self, frame: int) -> bool:
        """Whether the body is there in that frame."""
        return 0 <= frame - self.start < len(self.joints)


_JOINT_LINES = ("%.7G " * 11 + "%d\n") * NUM_JOINTS


def _joint_records(joints: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The twelve numbers of every joint, (V, 12)."""
    x, y, depth = joints.T
    z = np.maximum(depth, 0.1)
    records = np.empty((NUM_JOINTS, 12))
    records[:, :3] = joints
    records[:, 3], records[:, 4] = 256 + 366 * x / z, 212 - 366 * y / z
    records[:, 5], records[:, 6] = 960 + 1063 * x / z, 540 - 1063 * y / z
    orientation = rng.standard_normal((NUM_JOINTS, 4))
    records[:, 7:11] = orientation / np.linalg.norm(orientation, axis=1, keepdims=True)
    records[:, 11] = 2
    return records


def _draw_id(rng: np.random.Generator) -> int:
    return 72_057_594_037_900_000 + int(rng.integers(100_000))
