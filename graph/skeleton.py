"""The skeleton: named joints joined to a tree by bones.

Letters: V joints. Joints are 0-based indices everywhere in the code and names everywhere a person reads or writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from common.errors import UserError


class SkeletonError(UserError):
    """A skeleton that does not exist or is not a tree of joints; the message names what, why and the fix."""


@dataclass(frozen=True)
class Skeleton:
    """A tree of V joints; immutable, compared and hashed by value.

    Raises SkeletonError, beginning with the field at fault, when the joints do not form one tree.
    """

    name: str
    joint_names: tuple[str, ...]
    """One name per joint; the position is the joint's index."""
    parents: tuple[int, ...]
    """Index of each joint's parent. The root is its own parent, so that its bone (joint minus parent) is zero."""
    centre: int
    """The joint whose position in the first frame becomes the origin of a clip."""
    root: int
    """The joint that all bones lead to; re-centred streams subtract it in every frame."""
    left_right: tuple[tuple[int, int], ...] = ()
    """(left, right) indices of mirrored joints."""
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    """Body part -> its joints; a joint belongs to one part at most."""
    bone_partners: tuple[tuple[int, int], ...] = ()
    """(joint, the joint that its bone leads to), of the joints for which that is not the parent."""

    def __post_init__(self) -> None:
        check_joint_names(self.joint_names)
        _check_index("root", self.root, self.num_joints)
        _check_index("centre", self.centre, self.num_joints)
        _check_tree(self)
        _check_joints_used_once("left_right", (joint for pair in self.left_right for joint in pair), self.joint_names)
        _check_joints_used_once("bone_partners", (joint for joint, _ in self.bone_partners), self.joint_names)
        _check_joints_used_once("parts", (joint for part in self.parts.values() for joint in part), self.joint_names)

    @property
    def num_joints(self) -> int:
        """V."""
        return len(self.joint_names)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """The V - 1 bones as (child, parent), in the order of the children."""
        return tuple((child, parent) for child, parent in enumerate(self.parents) if child != parent)

    @property
    def bone_pairs(self) -> tuple[tuple[int, int], ...]:
        """V pairs (joint, joint subtracted from it in the bone stream); the root is paired with itself."""
        return tuple((dict(enumerate(self.parents)) | dict(self.bone_partners)).items())


def check_joint_names(names: tuple[str, ...]) -> None:
    """Raise SkeletonError unless there are names and no two are alike."""
    if not names:
        raise SkeletonError("joints: the list is empty; name at least one joint")
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise SkeletonError(f"joints: {repeated[0]!r} is there more than once; give every joint its own name")


def _check_index(key: str, index: int, num_joints: int) -> None:
    if not 0 <= index < num_joints:
        raise SkeletonError(f"{key}: joint {index} does not exist; the {num_joints} joints count from 0")


def _check_tree(skeleton: Skeleton) -> None:
    names, parents = skeleton.joint_names, skeleton.parents
    if len(parents) != len(names):
        raise SkeletonError(f"parents: {len(parents)} entries for {len(names)} joints; give one per joint")
    for parent in parents:
        _check_index("parents", parent, len(names))
    if parents[skeleton.root] != skeleton.root:
        raise SkeletonError(f"parents: the root {names[skeleton.root]!r} hangs on a joint; make it its own parent")
    for start in range(len(names)):
        walked = [start]
        while walked[-1] != skeleton.root:
            parent = parents[walked[-1]]
            if parent == walked[-1]:
                raise SkeletonError(
                    f"parents: {names[parent]!r} hangs on nothing, so the skeleton is disconnected; give it a parent "
                    f"that leads to the root {names[skeleton.root]!r}"
                )
            if parent in walked:
                cycle = " -> ".join(names[joint] for joint in [*walked[walked.index(parent) :], parent])
                raise SkeletonError(f"parents: {cycle} is a cycle; let every joint lead to the root")
            walked.append(parent)


def _check_joints_used_once(key: str, joints: Iterable[int], names: tuple[str, ...]) -> None:
    seen: set[int] = set()
    for joint in joints:
        _check_index(key, joint, len(names))
        if joint in seen:
            raise SkeletonError(f"{key}: {names[joint]!r} is there more than once; list a joint once")
        seen.add(joint)
