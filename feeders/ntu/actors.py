"""From the bodies of a raw clip to its one or two actors, by the rules of the published NTU RGB+D pipeline.

The pipeline is that of SGN (Zhang et al., CVPR 2020), which CTR-GCN and its descendants copied: bodies that are noise
are removed, the others are ordered by how much they move, tracks that follow each other are joined, and the origin is
moved to the spine of the first actor. Its oddities are kept on purpose, so that arrays exported from a store are those
that published numbers were made with.

Shapes: T frames, M actors, V = 25 joints, n samples of a body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from feeders.errors import DataError
from feeders.ntu.names import NUM_JOINTS
from feeders.ntu.raw import Body, RawClip

LONGEST_NOISE = 11
"""A body with no more samples is noise."""
WIDEST_BODY = 0.8
"""A sample is noisy when the body is wider than this share of its height."""
NOISY_SHARE = 0.69754
"""A body with at least this share of noisy samples is removed."""
ORIGIN_JOINT = 1
"""Middle of the spine."""


class Actors(NamedTuple):
    """What the pipeline makes of a clip.

    positions: (T, M, V, 3) float32 in metres; an actor who is absent from a frame is zero there, and a second actor
    who never appears is dropped. alone: the published result has room for one actor only, who is then repeated in the
    published NTU120 arrays. remark: what a user should hear about this clip, or "".
    """

    positions: np.ndarray
    alone: bool
    remark: str = ""


class _Candidate(NamedTuple):
    body: Body
    motion: np.float32


def choose_actors(clip: RawClip) -> Actors:
    """Denoise, order, join and translate the bodies of a clip.

    Where all bodies of a clip are short enough to be noise, which stops the published scripts, the longest stays.
    Raises `DataError` when nothing is left: all coordinates are zero.
    """
    if len(clip.bodies) == 1:
        return Actors(_translate(clip.bodies[0].joints[:, None]), alone=True)
    bodies = [body for body in clip.bodies if len(body.joints) > LONGEST_NOISE]
    remark = ""
    if not bodies:
        bodies = [max(clip.bodies, key=lambda body: len(body.joints))]
        remark = f"none of its {len(clip.bodies)} bodies has more than {LONGEST_NOISE} samples; the longest is kept"
    candidates = _remove_wide(bodies)
    # Python's sort is stable: bodies with equal motion stay in the order of their first appearance.
    ordered = [c.body for c in sorted(candidates, key=lambda candidate: -candidate.motion)]
    alone = len(ordered) == 1
    positions = _place(ordered, clip.frames)[:, : 1 if alone else 2]
    positions = positions[positions.reshape(clip.frames, -1).sum(axis=1) != 0]
    positions = _translate(positions)
    return Actors(positions if positions[:, 1:].any() else positions[:, :1], alone, remark)


def _remove_wide(bodies: Sequence[Body]) -> list[_Candidate]:
    """The bodies that are not too often wider than a person is; one always stays.

    They are looked at in the order of first appearance, until only one is left.
    """
    kept = [_Candidate(body, _motion(body.joints)) for body in bodies]
    for candidate in tuple(kept):
        if len(kept) == 1:
            break
        joints = candidate.body.joints
        noisy = _is_wide(joints)
        if noisy.sum() / len(joints) >= NOISY_SHARE:
            kept = [other for other in kept if other is not candidate]
        elif noisy.any():
            # Few clean samples can move more than all together, so the smaller of both counts.
            motion = min(candidate.motion, _motion(joints[~noisy]))
            kept = [other._replace(motion=motion) if other is candidate else other for other in kept]
    return kept


def _is_wide(joints: np.ndarray) -> np.ndarray:
    """Which samples are noisy, (n,) bool.

    Extents are float32, but the limit is compared in float64: the published scripts multiply numpy scalars by 0.8 on
    versions before 2, where that gives float64.
    """
    extent = joints.max(axis=1) - joints.min(axis=1)
    width, height = extent[:, 0].astype(np.float64), extent[:, 1].astype(np.float64)
    return width > WIDEST_BODY * height


def _motion(joints: np.ndarray) -> np.float32:
    """How much a body moves: the sum of the variances of x, y and z over all samples and joints, in float32."""
    with np.errstate(over="ignore"):  # coordinates of 10^19 metres are finite too
        return joints.reshape(-1, 3).var(axis=0).sum()


def _place(bodies: Sequence[Body], frames: int) -> np.ndarray:
    """Write each body into the first of two actors whose frames it does not overlap: (frames, 2, V, 3).

    A body takes as many consecutive frames as it has samples, from its first on, even if it was away in between. One
    common frame is no overlap, and the later body overwrites it. The frames of the second actor begin at 0, whenever
    it appears. A body that fits nowhere is lost.
    """
    positions = np.zeros((frames, 2, NUM_JOINTS, 3), dtype=np.float32)
    first, *others = bodies
    spans = [_span(first), (0, 0)]
    _write(positions, 0, first)
    for body in others:
        start, end = _span(body)
        for actor, (begin, last) in enumerate(spans):
            if min(last, end) - max(begin, start) <= 0:
                _write(positions, actor, body)
                spans[actor] = min(begin, start), max(last, end)
                break
    return positions


def _span(body: Body) -> tuple[int, int]:
    """First and last frame."""
    return body.start, body.start + len(body.joints) - 1


def _write(positions: np.ndarray, actor: int, body: Body) -> None:
    positions[body.start : body.start + len(body.joints), actor] = body.joints


def _translate(positions: np.ndarray) -> np.ndarray:
    """Move the origin to the middle of the first actor's spine in the first frame in which that actor is there.

    One origin for the whole clip. With two actors, one who is absent from a frame stays zero; absent is one whose
    numbers sum to zero.
    """
    there = positions[:, 0].any(axis=(1, 2))
    if not there.any():
        raise DataError("all coordinates of its actor are zero")
    moved = positions - positions[there.argmax(), 0, ORIGIN_JOINT]
    if positions.shape[1] > 1:
        moved[positions.reshape(*positions.shape[:2], -1).sum(axis=2) == 0] = 0
    return moved
