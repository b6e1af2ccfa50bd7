"""Partitions of a skeleton's joints into groups (the hyper-edges of Hyperformer, the windows of SkateFormer).

Letters: V joints, G groups.
"""

from __future__ import annotations

from typing import Literal, get_args

from common.words import did_you_mean
from graph.reader import built_in_name
from graph.skeleton import Skeleton, SkeletonError

Partition = Literal["published", "published_bone", "parts"]

# Hyperformer (arXiv 2211.09590): one group number per joint, what its learned assignment had become. NTU has one for
# all streams; NW-UCLA has one for joint and joint motion and one for bone and bone motion.
_PUBLISHED: dict[tuple[str | None, str], str] = {
    ("ntu", "published"): "0422221122112333233310101",
    ("ntu", "published_bone"): "0422221122112333233310101",
    ("nw-ucla", "published"): "00001111111122222222",
    ("nw-ucla", "published_bone"): "00000111011102220222",
}

# SkateFormer (arXiv 2403.09508) orders the joints of NTU and NW-UCLA so: two arms, two legs, on NTU shoulders and
# elbows, torso and head. The joint between NTU's shoulders is left out. The rest is ours; COCO's nose is there twice.
_EQUAL_PARTS: dict[str | None, tuple[tuple[int, ...], ...]] = {
    "ntu": ((6, 7, 21, 22), (10, 11, 23, 24), (12, 13, 14, 15), (16, 17, 18, 19), (4, 8, 5, 9), (1, 2, 0, 3)),
    "nw-ucla": ((4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15), (16, 17, 18, 19), (1, 2, 0, 3)),
    "msr-action3d": ((0, 7, 9, 11), (1, 8, 10, 12), (4, 13, 15, 17), (5, 14, 16, 18), (3, 2, 6, 19)),
    "sbu": ((3, 4, 5), (6, 7, 8), (9, 10, 11), (12, 13, 14), (2, 1, 0)),
    "coco": ((5, 7, 9), (6, 8, 10), (11, 13, 15), (12, 14, 16), (0, 1, 2), (0, 3, 4)),
}


def equal_parts(skeleton: Skeleton) -> tuple[tuple[int, ...], ...]:
    """Body parts of equal size: the joints of each, in an order that is alike in all parts (limbs from the body out).

    Built-in skeletons have theirs, which leave out a joint or repeat one where that must be; a skeleton with the joints
    of a built-in one counts as that one. Another skeleton's are the parts that it lists.

    Raises SkeletonError when these are not of one size.
    """
    parts = _EQUAL_PARTS.get(built_in_name(skeleton)) or tuple(part for part in skeleton.parts.values() if part)
    if len({len(part) for part in parts}) != 1:
        sizes = ", ".join(f"{name!r} has {len(part)}" for name, part in skeleton.parts.items()) or "there are none"
        raise SkeletonError(
            f"parts: those of skeleton {skeleton.name!r} must be of equal size here: {sizes}; list as many joints in "
            "each, and leave out the others"
        )
    return parts


def joint_groups(skeleton: Skeleton, partition: Partition = "published") -> tuple[int, ...]:
    """The group (0 ... G - 1) of each of the V joints; no group is empty.

    Args:
        skeleton: the joints; one with the joints of a built-in skeleton counts as that one, whatever its bones.
        partition: `published`, the partition that Hyperformer was published with, for its joint and joint motion
            streams; `published_bone`, for its bone streams; `parts`, the body parts that the skeleton lists. A skeleton
            that nothing was published for is always partitioned by its parts.

    Raises SkeletonError when the partition is none of these, or it needs parts and some joints belong to none.
    """
    if partition not in get_args(Partition):
        known = get_args(Partition)
        raise SkeletonError(
            f"partition: {partition!r} is unknown{did_you_mean(str(partition), known)}; choose from {', '.join(known)}"
        )
    published = _PUBLISHED.get((built_in_name(skeleton), partition))
    if published is not None:
        return tuple(int(group) for group in published)
    parts = [part for part in skeleton.parts.values() if part]
    group_of = {joint: group for group, part in enumerate(parts) for joint in part}
    outside = [name for joint, name in enumerate(skeleton.joint_names) if joint not in group_of]
    if outside:
        raise SkeletonError(
            f"parts: {', '.join(map(repr, outside))} of skeleton {skeleton.name!r} belong to no part, and a partition "
            "needs all joints; list every joint in one of its parts"
        )
    return tuple(group_of[joint] for joint in range(skeleton.num_joints))
