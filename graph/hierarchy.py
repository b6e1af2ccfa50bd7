"""The hierarchy of HD-GCN (ICCV 2023): joints in groups around a centre, and the graphs that join neighbouring groups.

Letters: V joints, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graph.hops import hop_distances, with_tips_on_hands
from graph.skeleton import Skeleton

MOST_LAYERS = 6


def joint_hierarchy(skeleton: Skeleton, centre: int) -> tuple[tuple[int, ...], ...]:
    """The L + 1 groups of joints, from the centre outwards; every joint is in one of them.

    Group g holds the joints that are g bones away from the centre, the last one all that are 6 or more away. Hand tips
    count as hanging on the hands. (This gives the groups that were published for NTU RGB+D and NW-UCLA.)
    """
    levels = np.minimum(hop_distances(with_tips_on_hands(skeleton))[centre], MOST_LAYERS)
    return tuple(tuple(np.flatnonzero(levels == level).tolist()) for level in range(int(levels.max()) + 1))


def hierarchy_adjacency(groups: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """The graphs of the L layers, shape (L, 3, V, V), float32; the joint that receives is the first of the two.

    Layer l joins every joint of group l with every joint of group l + 1: the joints with themselves, the outer ones
    receiving from the inner ones, and the inner ones from the outer ones. A column sums to 1 or is empty.
    """
    num_joints = sum(map(len, groups))
    matrices = np.zeros((len(groups) - 1, 3, num_joints, num_joints))
    for layer, inner, outer in zip(matrices, groups, groups[1:], strict=False):
        both = [*inner, *outer]
        layer[0, both, both] = 1
        layer[1][np.ix_(outer, inner)] = 1 / len(outer)
        layer[2][np.ix_(inner, outer)] = 1 / len(inner)
    return matrices.astype(np.float32)
