"""Skeletons (joints, parents, parts) and the adjacency matrices that encoders build from them.

    skeleton = get_skeleton("ntu")                   # or "nw-ucla", "coco", ..., or the path of your own YAML file
    skeleton.num_joints, skeleton.parents, skeleton.bone_pairs
    spatial_partition(skeleton)                      # (3, V, V) float32; root_partition of the same shape
    hop_distances(skeleton)                          # (V, V) int64
    joint_groups(skeleton), equal_parts(skeleton), joint_operator(skeleton, order=1)

Nothing here imports torch, so configuration checks can use it at once.
"""

from graph.adjacency import links_with_virtual_joints, root_partition, spatial_partition
from graph.hierarchy import hierarchy_adjacency, joint_hierarchy
from graph.hops import hop_distances, with_tips_on_hands
from graph.joint_operator import joint_operator
from graph.partitions import equal_parts, joint_groups
from graph.reader import get_skeleton, list_skeletons
from graph.skeleton import Skeleton, SkeletonError

__all__ = [
    "Skeleton",
    "SkeletonError",
    "equal_parts",
    "get_skeleton",
    "hierarchy_adjacency",
    "hop_distances",
    "joint_groups",
    "joint_hierarchy",
    "joint_operator",
    "links_with_virtual_joints",
    "list_skeletons",
    "root_partition",
    "spatial_partition",
    "with_tips_on_hands",
]
