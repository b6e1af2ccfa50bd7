"""The demo's clips as a pose estimator finds them in the image of the camera that saw them: pixels and confidence.

Shapes: T frames, M persons, V = 17 joints of the skeleton `coco`.
"""

from __future__ import annotations

import numpy as np

from feeders.keypoints import normalise_keypoints
from feeders.store.packed import PackedStore
from graph import get_skeleton

IMAGE_SIZE = (480, 640)
"""Height and width in pixels."""
FOCAL_LENGTH = 450.0
"""In pixels."""
DISTANCE = 4.0
"""Metres from the camera to the origin of a clip."""
PIXEL_NOISE = 1.5
"""Standard deviation of a found joint from the true one, in pixels; the less confident, the larger."""
MISSED = 0.02
"""Share of the joints that are not found at all."""

PLACES: dict[str, tuple[str, tuple[float, float, float]]] = {
    "nose": ("head", (0.0, -0.05, -0.10)),
    "left eye": ("head", (0.03, 0.0, -0.09)),
    "right eye": ("head", (-0.03, 0.0, -0.09)),
    "left ear": ("head", (0.08, -0.02, 0.0)),
    "right ear": ("head", (-0.08, -0.02, 0.0)),
}
"""Joints that the skeleton `ntu` lacks: where they lie, in metres from one that it has. Others have the same names."""


def filmed(store: PackedStore, seed: int) -> PackedStore:
    """The same clips, filmed: (T, M, 17, 3) float32, x and y in -1 .. 1 over the image, y down, and confidence.

    store: clips on the skeleton `ntu` in metres. Equal arguments give equal stores.
    """
    names = get_skeleton("ntu").joint_names
    places = [PLACES.get(joint, (joint, (0.0, 0.0, 0.0))) for joint in get_skeleton("coco").joint_names]
    sources = [names.index(joint) for joint, _ in places]
    offsets = np.array([offset for _, offset in places])
    clips = []
    for index in range(len(store)):
        positions = store.clip(index).numpy().astype(np.float64)[:, :, sources] + offsets
        rng = np.random.default_rng([seed, index])
        clips.append(find_joints(positions, rng))
    return PackedStore.from_clips(
        clips,
        store.labels.numpy(),
        names=store.names,
        class_names=store.class_names,
        skeleton="coco",
        metadata=store.metadata,
    )


def find_joints(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions (T, M, V, 3) in metres, y up and z away from the camera, as the network sees what was found of them.

    Rounded to a thousandth, so that the last bits of a machine's arithmetic do not show.
    """
    height, width = IMAGE_SIZE
    confidence = rng.uniform(0.5, 1.0, positions.shape[:3])
    confidence[rng.random(confidence.shape) < MISSED] = 0
    scale = FOCAL_LENGTH / (positions[..., 2:] + DISTANCE)
    pixels = positions[..., :2] * (1, -1) * scale + (width / 2, height / 2)
    pixels += rng.standard_normal(pixels.shape) * (PIXEL_NOISE * (1.5 - confidence[..., None]))
    return np.round(normalise_keypoints(pixels, confidence, IMAGE_SIZE), 3)
