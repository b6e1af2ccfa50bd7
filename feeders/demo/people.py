"""Who performs and how: people's build and habits, and what differs from take to take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feeders.demo.actions import Gesture, there_and_back
from feeders.demo.body import NUM_JOINTS, SEGMENTS

SHORTEST, LONGEST = 20, 300
"""Frames of a clip."""
COMMON_FRAMES = (24.0, 240.0)
"""Frames of a clip of a person of average tempo, drawn evenly on a logarithmic scale."""

ARMS = (5, 6, 7, 9, 10, 11, 21, 22, 23, 24)
LEGS = (13, 14, 15, 17, 18, 19)
SHOULDERS = (4, 8)

_SPREAD = {
    "trunk": (4.0, 10.0, 3.0),
    "head": (8.0, 15.0, 6.0),
    "left upper arm": (10.0, 6.0, 6.0),
    "right upper arm": (10.0, 6.0, 6.0),
    "left forearm": (18.0, 12.0, 3.0),
    "right forearm": (18.0, 12.0, 3.0),
}

POSTURE_SPREAD = np.array([_SPREAD.get(segment, (2.0, 2.0, 2.0)) for segment in SEGMENTS])
"""How differently people hold each segment from take to take, in degrees (pitch, twist, roll)."""


@dataclass(frozen=True)
class Person:
    """Build, tempo and habits."""

    bone_scale: np.ndarray
    """(25,) length of the bone that ends in each joint, relative to the average body."""
    amplitude: float
    """How far they move, relative to the average."""
    tempo: float
    """How long they take, relative to the average."""
    slump: float
    """Forward bend of trunk and neck at rest, in degrees."""
    arm_spread: float
    """How far the resting arms stand off the body, in degrees."""
    left_handed: bool


@dataclass(frozen=True)
class Take:
    """One performance and the view of it."""

    num_frames: int
    onset: float
    """Share of the frames before the action begins."""
    active: float
    """Share of the frames that the action takes."""
    warp: float
    """Exponent on the time of the action: below 1 it begins fast, above 1 slowly."""
    amplitude: float
    """How far the movements go, relative to the person's habit."""
    yaw: float
    """Turn of the scene against the camera about the vertical, in degrees."""
    tilt: float
    """Downward tilt of the camera, in degrees."""
    mirrored: bool
    """Performed with the left hand."""
    posture: np.ndarray
    """(2 persons, segments, 3 axes): angles held throughout, in degrees."""
    idle_gestures: tuple[Gesture, ...]
    """What the hand does that has no part in the action."""
    sway: np.ndarray
    """(2 persons, segments, 3 axes, 3): degrees, cycles per clip and phase of an involuntary movement."""


def draw_person(rng: np.random.Generator) -> Person:
    """Someone."""
    bone_scale = np.full(NUM_JOINTS, rng.uniform(0.86, 1.12))
    for group, spread in ((ARMS, 0.07), (LEGS, 0.07), (SHOULDERS, 0.12)):
        bone_scale[list(group)] *= rng.uniform(1 - spread, 1 + spread)
    return Person(
        bone_scale=bone_scale,
        amplitude=rng.uniform(0.85, 1.12),
        tempo=rng.uniform(0.8, 1.3),
        slump=rng.uniform(0, 10),
        arm_spread=rng.uniform(3, 14),
        left_handed=bool(rng.random() < 0.15),
    )


def draw_take(person: Person, camera_yaw: float, rng: np.random.Generator) -> Take:
    """A performance of that person before a camera that stands at this yaw (degrees)."""
    shortest, longest = np.log(COMMON_FRAMES)
    frames = round(float(np.exp(rng.uniform(shortest, longest))) * person.tempo)
    onset = rng.uniform(0.0, 0.10)
    other_hand = rng.random() < 0.05
    sway = rng.random((2, len(SEGMENTS), 3, 3)) * (2.0, 2.0, 2 * np.pi) + (0.0, 0.5, 0.0)
    return Take(
        num_frames=min(max(frames, SHORTEST), LONGEST),
        onset=onset,
        active=rng.uniform(0.85, 1.0) - onset,
        warp=rng.uniform(0.85, 1.18),
        amplitude=rng.uniform(0.88, 1.12),
        yaw=camera_yaw + rng.uniform(-20, 20),
        tilt=rng.uniform(0, 12),
        mirrored=person.left_handed != other_hand,
        posture=rng.uniform(-1, 1, (2, len(SEGMENTS), 3)) * POSTURE_SPREAD,
        idle_gestures=draw_idle_gestures(rng),
        sway=sway,
    )


def draw_idle_gestures(rng: np.random.Generator) -> tuple[Gesture, ...]:
    """In half of the takes the other hand goes up and down once, at any time."""
    start, pause = rng.uniform(0.0, 0.45), rng.uniform(0.05, 0.25)
    out, back = (start, start + 0.15), (start + 0.15 + pause, start + 0.3 + pause)
    lift, bend = rng.uniform(5, 45), rng.uniform(20, 110)
    if rng.random() < 0.5:
        return ()
    return (
        *there_and_back("left upper arm", "pitch", lift, out, back),
        *there_and_back("left forearm", "pitch", bend, out, back),
    )


def resting_posture(person: Person) -> dict[str, np.ndarray]:
    """How a person stands: degrees (pitch, twist, roll) of every segment."""
    angles = {segment: np.zeros(3) for segment in SEGMENTS}
    angles["trunk"] += (-person.slump / 2, 0, 0)
    angles["neck"] += (-person.slump, 0, 0)
    for side, outwards in (("left", 1), ("right", -1)):
        angles[f"{side} upper arm"] += (0, 0, outwards * person.arm_spread)
        angles[f"{side} forearm"] += (20, 0, 0)
    return angles
