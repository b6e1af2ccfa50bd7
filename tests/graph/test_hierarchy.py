"""The hierarchy of HD-GCN: the published groups, the check values of their graphs, any other skeleton."""

from __future__ import annotations

import numpy as np
import pytest

from graph import Skeleton, get_skeleton, hierarchy_adjacency, joint_hierarchy

GROUPS = {
    ("ntu", 21): "21 | 2 3 5 9 | 1 4 6 10 | 7 11 13 17 | 8 12 14 18 | 15 19 22 23 24 25 | 16 20",
    ("ntu", 1): "1 | 2 13 17 | 14 18 21 | 3 5 9 15 19 | 4 6 10 16 20 | 7 11 | 8 12 22 23 24 25",
    ("ntu", 2): "2 | 1 21 | 3 5 9 13 17 | 4 6 10 14 18 | 7 11 15 19 | 8 12 16 20 | 22 23 24 25",
    ("nw-ucla", 3): "3 | 2 4 5 9 | 1 6 10 | 7 11 13 17 | 8 12 14 18 | 15 19 | 16 20",
    ("nw-ucla", 1): "1 | 2 13 17 | 3 14 18 | 4 5 9 15 19 | 6 10 16 20 | 7 11 | 8 12",
    ("nw-ucla", 2): "2 | 1 3 | 4 5 9 13 17 | 6 10 14 18 | 7 11 15 19 | 8 12 16 20",
}
"""Published, by skeleton and centre; joints count from 1."""


@pytest.mark.parametrize(("name", "centre"), GROUPS)
def test_published_groups(name, centre):
    groups = joint_hierarchy(get_skeleton(name), centre - 1)
    assert " | ".join(" ".join(str(joint + 1) for joint in group) for group in groups) == GROUPS[name, centre]


@pytest.mark.parametrize(("name", "centre"), GROUPS)
def test_sums_and_links_of_the_graphs(name, centre):
    groups = joint_hierarchy(get_skeleton(name), centre - 1)
    adjacency = hierarchy_adjacency(groups)
    joints = get_skeleton(name).num_joints
    assert (adjacency.shape, adjacency.dtype) == ((len(groups) - 1, 3, joints, joints), np.float32)
    for layer, inner, outer in zip(adjacency, groups, groups[1:], strict=False):
        np.testing.assert_allclose(layer.sum(axis=(1, 2)), [len(inner) + len(outer), len(inner), len(outer)], rtol=1e-6)
        assert np.count_nonzero(layer, axis=(1, 2)).tolist() == [
            len(inner) + len(outer),
            len(inner) * len(outer),
            len(inner) * len(outer),
        ]
        assert layer[1][outer[0], inner[0]] == np.float32(1 / len(outer))  # the first index receives


@pytest.mark.parametrize(("graph", "root"), [("ntu", 21), ("ucla", 3)])
def test_published_matrices(shared, graph, root):
    skeleton = get_skeleton({"ntu": "ntu", "ucla": "nw-ucla"}[graph])
    assert skeleton.root == root - 1
    with np.load(shared / "parity" / "encoders" / f"hdgcn_{graph}.npz") as fixture:
        for centre, name in ((root, "graph/A"), (1, "com1/A"), (2, "com2/A")):
            np.testing.assert_array_equal(hierarchy_adjacency(joint_hierarchy(skeleton, centre - 1)), fixture[name])


def test_a_long_chain_has_six_layers():
    chain = Skeleton("chain", tuple("abcdefghij"), parents=(0, *range(9)), centre=0, root=0)
    assert joint_hierarchy(chain, 1) == ((1,), (0, 2), (3,), (4,), (5,), (6,), (7, 8, 9))
