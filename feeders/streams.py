"""The four input streams, in two variants, from joints.

Plain: bone = joint minus parent, the root's bone is zero. Centred: joint = joint minus the root in every frame and
person, and the root itself keeps its trajectory, in joint and bone alike. Motion is the difference to the next frame,
zero in the last one. An absent (all-zero) person stays zero in all of them.

In 2-D clips the third number of a joint is its confidence, which no stream subtracts: a bone has the mean of its two
joints', motion the mean of the two frames', zero in the last one.

Shapes: N clips, C = 3 numbers per joint, T frames, V joints, M persons.
"""

from __future__ import annotations

import torch
from torch import Tensor

from feeders.choices import STREAMS, VARIANTS, Stream, Variant
from feeders.errors import unknown_choice
from graph import Skeleton


class StreamBuilder:
    """Makes one stream of joints (N, 3, T, V, M) on `device`, in their dtype.

    Bones lead from a joint to its partner in the skeleton; the centred variant refers to the skeleton's root. With
    `confidence` the joints are x, y and confidence. Raises `DataError` for an unknown stream or variant.
    """

    def __init__(
        self,
        stream: Stream,
        variant: Variant,
        skeleton: Skeleton,
        device: torch.device | str = "cpu",
        confidence: bool = False,
    ) -> None:
        if stream not in STREAMS:
            raise unknown_choice("data.stream", stream, STREAMS)
        if variant not in VARIANTS:
            raise unknown_choice("data.variant", variant, VARIANTS)
        self.is_bone = stream.startswith("bone")
        self.is_motion = stream.endswith("motion")
        self.is_centred = variant == "centred"
        self.partners = torch.tensor([partner for _, partner in skeleton.bone_pairs], device=device)
        self.root = skeleton.root
        self.has_confidence = confidence

    def __call__(self, joints: Tensor) -> Tensor:
        """The stream of these joints; for the plain joint stream the very tensor given."""
        if not self.has_confidence or not (self.is_bone or self.is_motion or self.is_centred):
            return self._differences(joints)
        return torch.cat([self._differences(joints[:, :2]), self._means(joints[:, 2:])], dim=1)

    def _differences(self, joints: Tensor) -> Tensor:
        """The stream of coordinates."""
        stream = joints
        if self.is_bone:
            partners = joints.index_select(3, self.partners)
            stream = torch.sub(joints, partners, out=partners)
        elif self.is_centred:
            stream = joints - joints[:, :, :, self.root : self.root + 1]
        if self.is_centred:
            stream[:, :, :, self.root] = joints[:, :, :, self.root]
        if self.is_motion:
            stream = forward_difference(stream)
        return stream

    def _means(self, confidence: Tensor) -> Tensor:
        """The stream's confidence (N, 1, T, V, M) from that of the joints."""
        if self.is_bone:
            confidence = (confidence + confidence.index_select(3, self.partners)) / 2
        if self.is_motion:
            later = torch.zeros_like(confidence)
            later[:, :, :-1] = (confidence[:, :, :-1] + confidence[:, :, 1:]) / 2
            confidence = later
        return confidence


def forward_difference(x: Tensor) -> Tensor:
    """x[t + 1] - x[t] along the frames of (N, C, T, V, M), zero in the last."""
    difference = torch.empty_like(x)
    torch.sub(x[:, :, 1:], x[:, :, :-1], out=difference[:, :, :-1])
    difference[:, :, -1] = 0
    return difference
