"""The twelve actions: how joint angles run over a performance, whose time goes from 0 to 1.

Four pairs are ambiguous on purpose: the two actions of a pair share one gross motion, and a small difference separates
them apart only after half of the performance. Everything is written for a right-handed person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from feeders.demo.body import SEGMENTS

Axis = Literal["pitch", "twist", "roll"]
AXES: tuple[Axis, ...] = ("pitch", "twist", "roll")

DIVERGENCE = 0.5
"""Up to this time the two actions of an ambiguous pair are the same."""


@dataclass(frozen=True)
class Move:
    """A segment turns by an angle between two times and stays there (smoothly: minimum jerk)."""

    segment: str
    axis: Axis
    start: float
    end: float
    degrees: float

    def course(self, time: np.ndarray) -> np.ndarray:
        """Degrees at each time, the shape of `time`."""
        progress = np.clip((time - self.start) / (self.end - self.start), 0, 1)
        return self.degrees * progress**3 * (10 - 15 * progress + 6 * progress**2)


@dataclass(frozen=True)
class Swing:
    """A segment swings to and fro between two times, softly at both ends."""

    segment: str
    axis: Axis
    start: float
    end: float
    degrees: float
    cycles: float

    def course(self, time: np.ndarray) -> np.ndarray:
        """Degrees at each time, the shape of `time`."""
        progress = np.clip((time - self.start) / (self.end - self.start), 0, 1)
        envelope = np.minimum(1, 4 * np.minimum(progress, 1 - progress))
        return self.degrees * envelope * np.sin(2 * np.pi * self.cycles * progress)


Gesture = Move | Swing


@dataclass(frozen=True)
class Action:
    """A class: what the performer does and, in two-person classes, what the partner facing them does."""

    name: str
    gestures: tuple[Gesture, ...]
    partner: tuple[Gesture, ...] = ()
    reversed: bool = False
    """Performed backwards in time."""


def there_and_back(
    segment: str, axis: Axis, degrees: float, out: tuple[float, float], back: tuple[float, float]
) -> tuple[Move, Move]:
    """A segment turns by an angle and later returns."""
    return Move(segment, axis, *out, degrees), Move(segment, axis, *back, -degrees)


def angle_courses(gestures: Sequence[Gesture], time: np.ndarray) -> Mapping[str, np.ndarray]:
    """Sum of gestures as radians (T, 3) (pitch, twist, roll) of every segment; time: (T,) in [0, 1]."""
    degrees = {segment: np.zeros((len(time), 3)) for segment in SEGMENTS}
    for gesture in gestures:
        degrees[gesture.segment][:, AXES.index(gesture.axis)] += gesture.course(time)
    return {segment: np.deg2rad(course) for segment, course in degrees.items()}


HAND_TO_FACE = (
    *there_and_back("right upper arm", "pitch", 40, (0.05, 0.35), (0.82, 1.0)),
    *there_and_back("right forearm", "pitch", 125, (0.08, 0.40), (0.80, 0.98)),
)
BEND_DOWN = (
    *there_and_back("trunk", "pitch", -65, (0.05, 0.40), (0.58, 0.90)),
    *there_and_back("chest", "pitch", -20, (0.05, 0.40), (0.58, 0.90)),
    *there_and_back("right upper arm", "pitch", 80, (0.08, 0.40), (0.56, 0.85)),
    *there_and_back("left thigh", "pitch", 45, (0.05, 0.40), (0.58, 0.90)),
    *there_and_back("left shank", "pitch", -70, (0.05, 0.40), (0.58, 0.90)),
    *there_and_back("right thigh", "pitch", 45, (0.05, 0.40), (0.58, 0.90)),
    *there_and_back("right shank", "pitch", -70, (0.05, 0.40), (0.58, 0.90)),
)
REACH_FORWARD = (
    *there_and_back("right upper arm", "pitch", 65, (0.05, 0.38), (0.85, 1.0)),
    *there_and_back("right forearm", "pitch", 25, (0.05, 0.38), (0.85, 1.0)),
)
OFFER_HAND = (
    *there_and_back("right upper arm", "pitch", 35, (0.05, 0.40), (0.85, 1.0)),
    *there_and_back("right forearm", "pitch", 45, (0.05, 0.40), (0.85, 1.0)),
    *there_and_back("trunk", "pitch", -8, (0.05, 0.40), (0.85, 1.0)),
)

RAISE_HAND = (
    *there_and_back("right upper arm", "roll", -95, (0.03, 0.25), (0.82, 1.0)),
    *there_and_back("right forearm", "roll", -70, (0.03, 0.25), (0.82, 1.0)),
)
SIT_DOWN = (
    Move("left thigh", "pitch", 0.15, 0.80, 80),
    Move("right thigh", "pitch", 0.15, 0.80, 80),
    Move("left shank", "pitch", 0.15, 0.80, -85),
    Move("right shank", "pitch", 0.15, 0.80, -85),
    *there_and_back("trunk", "pitch", -35, (0.10, 0.50), (0.55, 0.95)),
    *there_and_back("left upper arm", "pitch", 30, (0.10, 0.50), (0.55, 0.95)),
    *there_and_back("right upper arm", "pitch", 30, (0.10, 0.50), (0.55, 0.95)),
)

ACTIONS: tuple[Action, ...] = (
    Action(
        "drink",
        (
            *HAND_TO_FACE,
            *there_and_back("head", "pitch", 32, (0.52, 0.62), (0.74, 0.84)),
            *there_and_back("right upper arm", "pitch", 22, (0.52, 0.62), (0.74, 0.84)),
        ),
    ),
    Action(
        "phone call",
        (
            *HAND_TO_FACE,
            *there_and_back("head", "roll", 20, (0.52, 0.62), (0.74, 0.84)),
            *there_and_back("right upper arm", "roll", -28, (0.52, 0.62), (0.74, 0.84)),
        ),
    ),
    Action("pick up", (*BEND_DOWN, Move("right forearm", "pitch", 0.55, 0.80, 55))),
    Action("put down", (*BEND_DOWN, *there_and_back("right forearm", "pitch", 25, (0.55, 0.65), (0.68, 0.85)))),
    Action(
        "press button",
        (
            *REACH_FORWARD,
            Swing("right upper arm", "pitch", 0.52, 0.84, 16, cycles=2),
            Swing("right forearm", "pitch", 0.52, 0.84, -32, cycles=2),
        ),
    ),
    Action(
        "turn knob",
        (
            *REACH_FORWARD,
            Swing("right forearm", "twist", 0.52, 0.84, 75, cycles=2),
            Swing("right upper arm", "roll", 0.52, 0.84, -16, cycles=2),
        ),
    ),
    Action(
        "shake hands",
        (*OFFER_HAND, Swing("right forearm", "pitch", 0.50, 0.85, 24, cycles=3)),
        partner=(*OFFER_HAND, Swing("right forearm", "pitch", 0.50, 0.85, 24, cycles=3)),
    ),
    Action(
        "hand over",
        (*OFFER_HAND, *there_and_back("right forearm", "pitch", -22, (0.54, 0.68), (0.86, 1.0))),
        partner=(*OFFER_HAND, *there_and_back("right forearm", "pitch", 32, (0.54, 0.68), (0.86, 1.0))),
    ),
    Action("wave", (*RAISE_HAND, Swing("right forearm", "roll", 0.25, 0.85, 38, cycles=3))),
    Action("raise hand", RAISE_HAND),
    Action("sit down", SIT_DOWN),
    Action("stand up", SIT_DOWN, reversed=True),
)

AMBIGUOUS_PAIRS: tuple[tuple[int, int], ...] = ((0, 1), (2, 3), (4, 5), (6, 7))
"""Class indices of the pairs that share their gross motion."""
