"""Adjacency matrices of a skeleton.

Letters: V joints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graph.hops import hop_distances, with_tips_on_hands
from graph.skeleton import Skeleton


def spatial_partition(skeleton: Skeleton, rooted: bool = False) -> NDArray[np.float32]:
    """The three matrices (self, inward, outward) of 2s-AGCN and CTR-GCN, shape (3, V, V), float32.

    A link from joint i to joint j sets row j, column i. Inward links lead from child to parent, outward links from
    parent to child. Both matrices are divided by the sums of their columns; the column of a joint without such a link
    stays zero. With `rooted` the root counts as a child of its own, too. (ST-GCN parts the links otherwise, see
    `root_partition`.)

    Mind the orientation: the joint that receives is the first index in CTR-GCN and the second in 2s-AGCN.
    """
    inward = np.zeros((skeleton.num_joints, skeleton.num_joints))
    for child, parent in enumerate(skeleton.parents) if rooted else skeleton.edges:
        inward[parent, child] = 1
    parts = [np.eye(skeleton.num_joints), _divide_by_column_sum(inward), _divide_by_column_sum(inward.T)]
    return np.stack(parts).astype(np.float32)


def root_partition(skeleton: Skeleton) -> NDArray[np.float32]:
    """The three matrices of ST-GCN's spatial configuration as its code has them, shape (3, V, V), float32.

    A link from joint i to joint j sets row i, column j. All links in both directions and each joint's to itself are
    divided by the sums of their columns, and then partitioned: joints to themselves, all others, and those that lead
    away from the root. Distances end at 1 in that code, so the last are the links from the root to its neighbours, and
    from these outwards; beyond them both directions of a bone count as the same. (The paper names the parts the other
    way round and measures whole distances from the body's centre.)
    """
    links = np.eye(skeleton.num_joints)
    for child, parent in skeleton.edges:
        links[parent, child] = links[child, parent] = 1
    links = _divide_by_column_sum(links)
    from_root = hop_distances(skeleton)[skeleton.root]
    distance = np.where(from_root > 1, np.inf, from_root)
    itself = np.eye(skeleton.num_joints, dtype=bool)
    outward = distance[:, None] < distance[None, :]
    parts = [links * itself, links * ~(itself | outward), links * outward]
    return np.stack(parts).astype(np.float32)


def links_with_virtual_joints(skeleton: Skeleton, num_virtual: int) -> NDArray[np.float32]:
    """The links of Hyper-GCN, 1 or 0, shape (V + U, V + U), float32; the U virtual joints come last.

    Every joint is joined with itself, with the joints that a bone joins it with (hand tips with the hands), and every
    virtual joint with all real ones.
    """
    links = np.eye(skeleton.num_joints + num_virtual, dtype=np.float32)
    for child, parent in with_tips_on_hands(skeleton).edges:
        links[child, parent] = links[parent, child] = 1
    links[-num_virtual:, :-num_virtual] = links[:-num_virtual, -num_virtual:] = 1
    return links


def _divide_by_column_sum(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = matrix.sum(axis=0, keepdims=True)
    return np.divide(matrix, sums, out=np.zeros_like(matrix), where=sums > 0)
