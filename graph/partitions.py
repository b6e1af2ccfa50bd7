"""Partitions of a skeleton's joints into groups (the hyper-edges of Hyperformer).

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


def joint_groups(skeleton: Skeleton, partition: Partition = "published") -> tuple[int, ...]:
    """The group (0 ... G - 1) of each of the V joints; no group is empty.

    Args:
        skeleton: the joints; one with the joints of a built-in skeleton counts as that one, whatever its bones.
        partition: `published`, the partition that Hyperformer was published with, for its joint and joint motion
            streams; `published_bone`, for its bone streams; `parts`, the body parts that the skeleton lists. A skeleton
            that nothing was published for is always parted by its parts.

    Raises SkeletonError when the partition is none of these, or it needs parts and some joints belong to none.
    """
    if partition not in get_args(Partition):
        known = get_args(Partition)
        raise SkeletonError(
            f"partition: {partition!r} is unknown{did_you_mean(str(partition), known)}; known are {', '.join(known)}"
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
