"""Distances between joints along the bones, and the bones that some encoders measure them on.

Letters: V joints.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graph.skeleton import Skeleton

_TIP_TO_HAND = {"left hand tip": "left hand", "right hand tip": "right hand"}


def hop_distances(skeleton: Skeleton) -> NDArray[np.int64]:
    """Number of bones on the path between any two joints, shape (V, V), int64; zero on the diagonal."""
    num_joints = skeleton.num_joints
    hops = np.full((num_joints, num_joints), num_joints)  # longer than any path
    np.fill_diagonal(hops, 0)
    for child, parent in skeleton.edges:
        hops[child, parent] = hops[parent, child] = 1
    for between in range(num_joints):
        hops = np.minimum(hops, hops[:, between, None] + hops[None, between, :])
    return hops


def with_tips_on_hands(skeleton: Skeleton) -> Skeleton:
    """The skeleton with its hand tips moved from the thumbs to the hands, as Hyperformer and BlockGCN join them.

    Only joints named `left hand tip` and `right hand tip` that nothing hangs on are moved, where there is a joint
    `left hand` or `right hand` to take them; any other skeleton stays as it is.
    """
    names = skeleton.joint_names
    parents = list(skeleton.parents)
    for tip, hand in _TIP_TO_HAND.items():
        # A tip that other joints hang on, or the root, cannot be moved without tearing the tree.
        if tip in names and hand in names and names.index(tip) not in skeleton.parents:
            parents[names.index(tip)] = names.index(hand)
    return replace(skeleton, parents=tuple(parents))
