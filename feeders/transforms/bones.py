"""Bone-length scaling: every bone of a clip longer or shorter by a factor of its own (FR-Head, CVPR 2023).

The skeleton is rebuilt from its scaled bones, beginning at the pelvis, which stays where it is. Left and right bones
share the mean of their two factors. Published for the NTU skeleton with factors in 1 +- 0.2; the pairs, the tree and
the pelvis are read from the skeleton here, so it works for any.

Shapes: N clips, V joints.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graph import Skeleton

GUARD = 1e-8
"""Added to the length of a bone before it divides, as published: a bone without length stays without."""


class BoneScaling:
    """Scales the bones of clips by factors in 1 - amount .. 1 + amount. Draws per clip: one per bone, in the order of
    the joint at the bone's far end."""

    def __init__(self, skeleton: Skeleton, amount: float, device: torch.device | str = "cpu") -> None:
        self.amount = amount
        self.pelvis = pelvis(skeleton)
        self.bones = bones_from(skeleton, self.pelvis)
        self.num_draws = len(self.bones)
        mirrored = {joint: other for pair in skeleton.left_right for joint, other in (pair, pair[::-1])}
        far_ends = sorted(child for child, _ in self.bones)
        self._far_ends = torch.tensor(far_ends, device=device)
        self._mirror = torch.tensor([far_ends.index(mirrored.get(joint, joint)) for joint in far_ends], device=device)

    def factors(self, draws: Tensor) -> Tensor:
        """Draws (N, V - 1) in [0, 1) to the factors of the bones, in the same order."""
        own = 1 + self.amount * (2 * draws - 1)
        return (own + own[:, self._mirror]) / 2

    def scale(self, points: Tensor, factors: Tensor) -> Tensor:
        """Joints (N, ..., V, 3) with scaled bones; factors: (N, V - 1), the same for all frames and persons of a clip.
        A person or frame that is all zeros stays so."""
        of_joint = torch.ones(len(points), points.shape[-2], dtype=points.dtype, device=points.device)
        of_joint[:, self._far_ends] = factors.to(points.dtype)
        scaled = points.clone()
        for child, parent in self.bones:
            bone = points[..., child, :] - points[..., parent, :]
            length = bone.norm(dim=-1, keepdim=True)
            factor = of_joint[:, child].view(-1, *[1] * (bone.dim() - 1))
            scaled[..., child, :] = scaled[..., parent, :] + factor * length * bone / (length + GUARD)
        return scaled


def pelvis(skeleton: Skeleton) -> int:
    """The joint from which a left and a right limb hang, of several the one farthest from the root; the root where
    there is none. The base of the spine (NTU) or the hip centre (NW-UCLA)."""
    parents = skeleton.parents

    def distance(joint: int) -> int:
        return 0 if joint == skeleton.root else 1 + distance(parents[joint])

    junctions = sorted({parents[left] for left, right in skeleton.left_right if parents[left] == parents[right]})
    return max(junctions, key=distance, default=skeleton.root)


def bones_from(skeleton: Skeleton, start: int) -> list[tuple[int, int]]:
    """The bones as (far joint, near joint) seen from one joint, every near joint being `start` or reached before."""
    bones: list[tuple[int, int]] = []
    reached = [start]
    for joint in reached:
        ends = {end for edge in skeleton.edges if joint in edge for end in edge} - set(reached)
        bones += [(end, joint) for end in sorted(ends)]
        reached += sorted(ends)
    return bones
