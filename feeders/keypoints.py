"""From joints in an image to the numbers that a network sees.

Letters: V joints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNSEEN = 0.01
"""Joints of this confidence or less lie in the middle of the image (PYSKL, `PreNormalize2D`)."""

FARTHEST = 10.0
"""From the middle of an image that spans -1 to 1: joints may be found outside of it, but not so far."""


def normalise_keypoints(
    keypoints: NDArray[np.floating], confidence: NDArray[np.floating], image_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Pixels (..., V, 2), x to the right and y down, with confidence (..., V), as float32 (..., V, 3).

    x and y become (x - w / 2) / (w / 2) and (y - h / 2) / (h / 2), so that the image spans -1 .. 1; the third number is
    the confidence. image_size: (height, width) in pixels. Absent persons (zeros of confidence zero) stay zero.
    """
    height, width = image_size
    half = np.array([width / 2, height / 2], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by whoever keeps the clip
        points = (keypoints.astype(np.float32) - half) / half
    seen = confidence.astype(np.float32)[..., None]
    return np.concatenate([np.where(seen > UNSEEN, points, np.float32(0)), seen], axis=-1)


def fault_of_keypoints(clip: NDArray[np.floating]) -> str | None:
    """Why numbers (..., V, 3) cannot be what `normalise_keypoints` gives, or None."""
    largest = np.abs(clip[..., :2]).max(initial=0)
    if not largest > FARTHEST:  # NaN is somebody else's business
        return None
    return f"coordinates up to {largest:g}: are these pixels? normalise them first (feeders.normalise_keypoints)"
