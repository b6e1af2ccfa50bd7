"""Skeletons (joints, parents, parts) and the adjacency matrices that encoders build from them.

    skeleton = get_skeleton("ntu")                   # or "nw-ucla", or the path of your own YAML file
    skeleton.num_joints, skeleton.parents, skeleton.bone_pairs
    spatial_partition(skeleton)                      # (3, V, V) float32

Nothing here imports torch, so configuration checks can use it at once.
"""

from graph.adjacency import spatial_partition
from graph.reader import get_skeleton, list_skeletons
from graph.skeleton import Skeleton, SkeletonError

__all__ = ["Skeleton", "SkeletonError", "get_skeleton", "list_skeletons", "spatial_partition"]
