"""A body as a kinematic tree: bone lengths and angles in, joint positions out.

It stands upright with hanging arms and looks towards the camera, along -z. As in NTU RGB+D, x points right in the
image, which is the body's left, y up and z away from the camera. The joints are those of the skeleton `ntu`; lengths
are in metres.

Shapes: T frames, V = 25 joints.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

NUM_JOINTS = 25
ROOT = 0
ANKLES = (14, 18)

BONES: tuple[tuple[int, int, tuple[float, float, float]], ...] = (
    (1, 0, (0.00, 0.20, 0.00)),
    (20, 1, (0.00, 0.24, 0.00)),
    (2, 20, (0.00, 0.08, 0.00)),
    (3, 2, (0.00, 0.14, -0.02)),
    (4, 20, (0.17, -0.03, 0.00)),
    (5, 4, (0.03, -0.28, 0.00)),
    (6, 5, (0.01, -0.25, 0.00)),
    (7, 6, (0.00, -0.08, 0.00)),
    (21, 7, (0.00, -0.09, -0.01)),
    (22, 7, (-0.01, -0.04, -0.06)),
    (8, 20, (-0.17, -0.03, 0.00)),
    (9, 8, (-0.03, -0.28, 0.00)),
    (10, 9, (-0.01, -0.25, 0.00)),
    (11, 10, (0.00, -0.08, 0.00)),
    (23, 11, (0.00, -0.09, -0.01)),
    (24, 11, (0.01, -0.04, -0.06)),
    (12, 0, (0.09, -0.03, 0.00)),
    (13, 12, (0.01, -0.40, 0.00)),
    (14, 13, (0.00, -0.40, 0.02)),
    (15, 14, (0.00, -0.06, -0.13)),
    (16, 0, (-0.09, -0.03, 0.00)),
    (17, 16, (-0.01, -0.40, 0.00)),
    (18, 17, (0.00, -0.40, 0.02)),
    (19, 18, (0.00, -0.06, -0.13)),
)
"""(joint, the joint it hangs on, offset at rest), parents first. Anatomical: a finger hangs on the hand."""

SEGMENTS = {
    "trunk": 1,
    "chest": 20,
    "neck": 2,
    "head": 3,
    "left upper arm": 5,
    "left forearm": 6,
    "left hand": 7,
    "right upper arm": 9,
    "right forearm": 10,
    "right hand": 11,
    "left thigh": 13,
    "left shank": 14,
    "right thigh": 17,
    "right shank": 18,
}
"""The bones that turn, by the joint at their far end; the bones beyond turn with them."""


def pose(angles: Mapping[str, np.ndarray], bone_scale: np.ndarray) -> np.ndarray:
    """Positions (T, V, 3) of a body whose lower ankle stays on the floor (y = 0), above x = z = 0.

    angles: segment -> (T, 3) radians (pitch, twist, roll), for every segment of `SEGMENTS`. Pitch lifts a hanging limb
    forwards and bends the trunk backwards, roll lifts a hanging limb to the body's left, twist turns a limb about
    itself. bone_scale: (V,) factor on the bone that ends in each joint.
    """
    turned = {joint: rotations(angles[segment]) for segment, joint in SEGMENTS.items()}
    frames = len(next(iter(angles.values())))
    frame_of: dict[int, np.ndarray] = {ROOT: np.broadcast_to(np.eye(3), (frames, 3, 3))}
    positions = np.zeros((frames, NUM_JOINTS, 3))
    for joint, parent, offset in BONES:
        frame_of[joint] = frame_of[parent] @ turned[joint] if joint in turned else frame_of[parent]
        positions[:, joint] = positions[:, parent] + frame_of[joint] @ (bone_scale[joint] * np.array(offset))
    floor = positions[:, ANKLES, 1].min(axis=1)
    positions[..., 1] -= floor[:, None]
    return positions


def rotations(angles: np.ndarray) -> np.ndarray:
    """(T, 3) radians (pitch about x, twist about y, roll about z) to (T, 3, 3): twist first, then pitch, then roll."""
    (cp, ct, cr), (sp, st, sr) = np.cos(angles).T, np.sin(angles).T
    return np.stack(
        [
            np.stack([cr * ct - sr * sp * st, -sr * cp, cr * st + sr * sp * ct], axis=-1),
            np.stack([sr * ct + cr * sp * st, cr * cp, sr * st - cr * sp * ct], axis=-1),
            np.stack([-cp * st, sp, cp * ct], axis=-1),
        ],
        axis=-2,
    )
