"""The actions performed by people, seen by cameras and a noisy sensor, packed as a data set.

Each clip has a random source of its own, seeded by (seed, who, what), so it does not depend on which others are made.
Positions are rounded to a tenth of a millimetre, far below the sensor noise, which also hides that sine and cosine may
differ in their last bit between machines.

Shapes: T frames, M persons, V = 25 joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from feeders.demo.actions import ACTIONS, Action, Gesture, angle_courses
from feeders.demo.body import SEGMENTS, pose, rotations
from feeders.demo.people import Person, Take, draw_person, draw_take, resting_posture
from feeders.store.packed import PackedStore
from graph import get_skeleton

NUM_SUBJECTS = 15
NUM_REPLICATIONS = 2
CAMERA_YAW = (-20.0, 30.0)
"""Where the cameras stand, in degrees about the vertical; 0 looks a lone performer in the face."""
SIDE_VIEW = 90.0
"""Two persons who face each other are seen from the side."""
PARTNER_DISTANCE = 1.05
"""Metres between them."""

NOISE = 0.005
"""Standard deviation of the sensor noise in metres."""
EXTREMITIES = (7, 11, 15, 19, 21, 22, 23, 24)
EXTREMITY_NOISE = 1.6
"""Hands and feet are that much noisier."""

_PERSON, _CLIP = 0, 1
"""The two kinds of random sources."""


def generate_demo(
    seed: int = 0, num_subjects: int = NUM_SUBJECTS, num_replications: int = NUM_REPLICATIONS
) -> PackedStore:
    """Every action by every subject before every camera, as float32 in metres.

    The origin is joint 2 of the first person in the first frame, as in NTU RGB+D. Names are like `d01_s05_c2_r01`:
    class, subject, camera, replication, all from 1. Equal arguments give equal stores.
    """
    subjects = [draw_person(np.random.default_rng([seed, _PERSON, s])) for s in range(1, num_subjects + 1)]
    plan = list(
        product(
            range(len(ACTIONS)),
            range(1, num_subjects + 1),
            range(1, len(CAMERA_YAW) + 1),
            range(1, num_replications + 1),
        )
    )
    clips = []
    for label, subject, camera, replication in plan:
        rng = np.random.default_rng([seed, _CLIP, label, subject, camera, replication])
        person, partner = subjects[subject - 1], draw_person(rng)
        take = draw_take(person, CAMERA_YAW[camera - 1], rng)
        clips.append(record(perform(ACTIONS[label], (person, partner), take), rng))
    labels, subject_column, camera_column, replication_column = np.array(plan).T
    return PackedStore.from_clips(
        clips,
        labels,
        names=[
            f"d{label + 1:02}_s{subject:02}_c{camera}_r{replication:02}" for label, subject, camera, replication in plan
        ],
        class_names=[action.name for action in ACTIONS],
        skeleton="ntu",
        metadata={"subject": subject_column, "camera": camera_column, "replication": replication_column},
    )


def perform(action: Action, people: tuple[Person, Person], take: Take) -> np.ndarray:
    """What happens, in the camera's axes and without noise: positions (T, M, 25, 3), float64 metres.

    M is 2 for an action with a partner, who is the second of `people`.
    """
    scene = [_body(action.gestures, people[0], take, 0, action.reversed)]
    if action.partner:
        partner = _body(action.partner, people[1], take, 1, action.reversed)
        # Turned about the vertical to look back at the first person, who looks along -z.
        scene.append(partner * (-1, 1, -1) + (0, 0, -PARTNER_DISTANCE))
    positions = np.stack(scene, axis=1)
    if take.mirrored:
        positions = _mirror(positions)
    yaw = take.yaw + (SIDE_VIEW if action.partner else 0.0)
    turn, tilt = np.deg2rad([[0.0, yaw, 0.0], [take.tilt, 0.0, 0.0]])
    return positions @ (rotations(tilt[None])[0] @ rotations(turn[None])[0]).T


def record(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add sensor noise and move the origin: positions (T, M, 25, 3) as float32."""
    spread = np.full(positions.shape[2], NOISE * rng.uniform(0.6, 1.4))
    spread[list(EXTREMITIES)] *= EXTREMITY_NOISE
    noisy = positions + rng.standard_normal(positions.shape) * spread[:, None]
    origin = noisy[0, 0, get_skeleton("ntu").centre]
    return np.round(noisy - origin, 4).astype(np.float32)


def _body(gestures: Sequence[Gesture], person: Person, take: Take, who: int, reverse: bool) -> np.ndarray:
    """Positions (T, 25, 3) of person number `who` of the scene, looking along -z."""
    clip_time = np.arange(take.num_frames) / (take.num_frames - 1)
    time = np.clip((clip_time - take.onset) / take.active, 0, 1) ** take.warp
    extent = person.amplitude * take.amplitude
    acted = angle_courses(gestures, 1 - time if reverse else time)
    idle = angle_courses(take.idle_gestures, clip_time)
    held = resting_posture(person)
    angles = {}
    for i, segment in enumerate(SEGMENTS):
        degrees, cycles, phase = np.moveaxis(take.sway[who, i], -1, 0)
        swayed = degrees * np.sin(2 * np.pi * cycles * clip_time[:, None] + phase)
        still = held[segment] + take.posture[who, i]
        angles[segment] = extent * acted[segment] + idle[segment] + np.deg2rad(still + swayed)
    return pose(angles, person.bone_scale)


def _mirror(positions: np.ndarray) -> np.ndarray:
    """The scene in a mirror: left and right joints change places."""
    order = np.arange(positions.shape[2])
    for left, right in get_skeleton("ntu").left_right:
        order[[left, right]] = right, left
    return positions[:, :, order] * (-1, 1, 1)
