"""The NTU RGB+D family: crop in time, resize to the window, rotate about the origin, scale bones.

As in the published feeders of CTR-GCN, Hyperformer and CSRE: training takes a random 50 to 100 % of the frames and
turns the clip by up to 0.3 rad about each axis; testing takes the central 95 % and does not turn it. HCN's centres
every frame and turns nothing; FR-Head's scales bones after turning.

Shapes: N clips of a batch, n frames a clip has, L frames a crop keeps, T window, V joints, M persons.
"""

from __future__ import annotations

import torch
from torch import Tensor

from feeders.store.packed import ClipRows
from feeders.transforms.bones import BoneScaling
from feeders.transforms.frames import centre_frames, clear_absent, gather_frames, to_network_layout, turn

TRAIN_SHARE = (0.5, 1.0)
TEST_SHARE = 0.95
SHORTEST_CROP = 64
"""Frames that a training crop keeps at least (all of a shorter clip). A constant, whatever the window."""


class NTUTransform:
    """Crop, resize and rotation. Draws per clip: share kept, start of the crop, three angles, then those of `scaling`.

    rotation: largest angle about each axis, in radians; 0 for none. centre: the first person's joint that becomes the
    origin of every frame; None leaves the origin of the clip. scaling: of bones, None for none.
    """

    def __init__(
        self,
        num_persons: int,
        window: int,
        *,
        rotation: float = 0.3,
        centre: int | None = None,
        scaling: BoneScaling | None = None,
    ) -> None:
        self.num_persons = num_persons
        self.window = window
        self.rotation = rotation
        self.centre = centre
        self.scaling = scaling
        self.num_draws = 5 + (scaling.num_draws if scaling is not None else 0)

    def train(
        self, rows: ClipRows, clips: Tensor, draws: Tensor, copied: Tensor | None = None, longest: int | None = None
    ) -> Tensor:
        """Random crop, rotation and lengths of bones; see `ClipTransform.train`."""
        clips = clips.to(rows.device)
        low, high = TRAIN_SHARE
        start, length = train_crop(rows.frames[clips], low + draws[:, 0] * (high - low), draws[:, 1])
        joints = self._crop_resize(rows, clips, start, length, copied)
        if self.rotation:
            angles = (2 * draws[:, 2:5] - 1) * self.rotation
            joints = rotate(joints, rotation_matrices(angles.to(joints.dtype)))
        if self.scaling is not None:
            scaled = self.scaling.scale(joints.permute(0, 2, 4, 3, 1), self.scaling.factors(draws[:, 5:]))
            joints = scaled.permute(0, 4, 1, 3, 2).contiguous()
        return joints

    def test(self, rows: ClipRows, clips: Tensor, copied: Tensor | None = None, longest: int | None = None) -> Tensor:
        """Central crop; see `ClipTransform.test`."""
        clips = clips.to(rows.device)
        start, length = centre_crop(rows.frames[clips], TEST_SHARE)
        return self._crop_resize(rows, clips, start, length, copied)

    def _crop_resize(
        self, rows: ClipRows, clips: Tensor, start: Tensor, length: Tensor, copied: Tensor | None
    ) -> Tensor:
        return crop_resize(rows, clips, start, length, self.window, self.num_persons, self.centre, copied)


def train_crop(frames: Tensor, share: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Start and length of crops that keep `share` of each clip, at least 64 frames where there are as many.

    frames: (N,) int64, n of each clip. share: (N,) float64. position: (N,) float64 in [0, 1), from the earliest to the
    latest possible start. Returns two (N,) int64.
    """
    length = (frames * share).long().clamp(min=SHORTEST_CROP).minimum(frames)
    start = (position * (frames - length + 1)).long()
    return start, length


def centre_crop(frames: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Start and length of the central crop of each clip: trunc((1 - share) * n / 2) frames go at either end."""
    start = ((1 - share) * frames.double() / 2).long()
    return start, frames - 2 * start


def crop_resize(
    rows: ClipRows,
    clips: Tensor,
    start: Tensor,
    length: Tensor,
    window: int,
    num_persons: int,
    centre: int | None = None,
    copied: Tensor | None = None,
) -> Tensor:
    """Frames start .. start + length - 1 of each clip, resized to the window linearly in time (half-pixel centres).

    clips, start, length: (N,) int64 on the device of the rows. centre: see `NTUTransform`; copied: see
    `ClipTransform.train`. Returns (N, 3, T, V, M) in the dtype of the rows. Output k lies at source position
    max((k + 0.5) * L / T - 0.5, 0) of the crop and mixes the two frames around it.
    """
    # The published resize rounds L / T to float32 before multiplying. A full divisor, because dividing by a single
    # number may become a multiplication by its reciprocal, which rounds differently.
    scale = length.float() / torch.full_like(length, window, dtype=torch.float32)
    output = torch.arange(window, device=rows.device, dtype=torch.float32) + 0.5
    source = (output * scale.unsqueeze(1) - 0.5).clamp(min=0)
    earlier = source.long()
    later = (earlier + 1).minimum(length.unsqueeze(1) - 1)
    weight = (source - earlier).to(rows.coordinates.dtype).view(*source.shape, 1, 1)
    first = start.unsqueeze(1)
    points, following = (gather_frames(rows, clips, first + frames, num_persons) for frames in (earlier, later))
    if centre is not None:
        points, following = centre_frames(points, centre), centre_frames(following, centre)
    points.lerp_(following, weight)
    return to_network_layout(clear_absent(points, rows, clips, copied), rows.coordinates.shape[1])


def rotation_matrices(angles: Tensor) -> Tensor:
    """Angles (a, b, c) about x, y, z in radians, (N, 3), to matrices Rz Ry Rx, (N, 3, 3), for column vectors."""
    (ca, cb, cc), (sa, sb, sc) = angles.cos().unbind(1), angles.sin().unbind(1)
    entries = [
        [cb * cc, ca * sc + sa * sb * cc, sa * sc - ca * sb * cc],
        [-cb * sc, ca * cc - sa * sb * sc, sa * cc + ca * sb * sc],
        [sb, -sa * cb, ca * cb],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in entries], dim=1)


def rotate(joints: Tensor, matrices: Tensor) -> Tensor:
    """Every point of clip i, joints (N, 3, T, V, M), becomes matrices[i] times it."""
    return turn(matrices, joints.flatten(2)).view_as(joints)
