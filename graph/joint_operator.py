"""The joint operator of InfoGCN (CVPR 2022): bones of any order as a matrix.

Letters: V joints, k the order.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.words import did_you_mean
from graph.hops import hop_distances
from graph.reader import built_in_name
from graph.skeleton import Skeleton, SkeletonError

BoneDirection = Literal["published", "to_ancestor"]


def joint_operator(skeleton: Skeleton, order: int, direction: BoneDirection = "published") -> NDArray[np.float32]:
    """I - A^k, k = order: row v holds the weights of the new joint v; shape (V, V), float32, values -1, 0 and 1.

    With A[child, parent] = 1 a joint gives way to the bone that leads to it from its k-th ancestor: k = 1 makes
    ordinary bones. Joints without a k-th ancestor stay as they are, which at orders above the tree's depth are all.

    Args:
        skeleton: the tree. NTU's is rooted at the middle of the spine, as published; any other at the skeleton's root.
        order: k, from 1 on; k = 0 would multiply every clip by zero.
        direction: `to_ancestor` is the above. `published` differs on NW-UCLA, whose published edges are written the
            other way round, so that a joint loses the sum of its k-th descendants, which is no bone.

    Raises SkeletonError when the order is not an integer >= 1 or the direction none of these.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise SkeletonError(f"order: must be an integer >= 1, got {order!r} (order 0 would multiply all clips by zero)")
    if direction not in get_args(BoneDirection):
        known = get_args(BoneDirection)
        raise SkeletonError(
            f"direction: {direction!r} is unknown{did_you_mean(str(direction), known)}; choose from {', '.join(known)}"
        )
    hops = hop_distances(skeleton)
    known_as = built_in_name(skeleton)
    from_root = hops[skeleton.centre if known_as == "ntu" else skeleton.root]
    power = (hops == order) & (from_root[:, None] == from_root[None, :] + order)  # A^k[v, k-th ancestor of v]
    if direction == "published" and known_as == "nw-ucla":
        power = power.T
    return np.eye(skeleton.num_joints, dtype=np.float32) - power.astype(np.float32)
