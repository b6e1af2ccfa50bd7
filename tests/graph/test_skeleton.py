"""The two built-in skeletons are those of the data sets, and a skeleton is always one tree."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from graph import Skeleton, SkeletonError, get_skeleton, list_skeletons

# (child, parent) pairs as the data sets' documents give them: joints counted from 1.
NTU_EDGES = """(1,2) (2,21) (3,21) (4,3) (5,21) (6,5) (7,6) (8,7) (9,21) (10,9) (11,10) (12,11) (13,1) (14,13) (15,14)
(16,15) (17,1) (18,17) (19,18) (20,19) (22,23) (23,8) (24,25) (25,12)"""
NW_UCLA_EDGES = """(1,2) (2,3) (4,3) (5,3) (6,5) (7,6) (8,7) (9,3) (10,9) (11,10) (12,11) (13,1) (14,13) (15,14) (16,15)
(17,1) (18,17) (19,18) (20,19)"""
NTU_MIRRORED = "(5,9) (6,10) (7,11) (8,12) (13,17) (14,18) (15,19) (16,20) (22,24) (23,25)"
NW_UCLA_MIRRORED = "(5,9) (6,10) (7,11) (8,12) (13,17) (14,18) (15,19) (16,20)"


def from_one(text: str) -> set[tuple[int, int]]:
    pairs = (pair.strip("()").split(",") for pair in text.split())
    return {(int(one) - 1, int(other) - 1) for one, other in pairs}


@pytest.mark.parametrize(
    ("name", "num_joints", "root", "edges", "mirrored"),
    [("ntu", 25, 21, NTU_EDGES, NTU_MIRRORED), ("nw-ucla", 20, 3, NW_UCLA_EDGES, NW_UCLA_MIRRORED)],
)
def test_built_in_skeletons(name, num_joints, root, edges, mirrored):
    skeleton = get_skeleton(name)
    assert skeleton.name == name
    assert skeleton.num_joints == num_joints == len(skeleton.joint_names)
    assert set(skeleton.edges) == from_one(edges)
    assert set(skeleton.left_right) == from_one(mirrored)
    assert skeleton.root == root - 1
    assert skeleton.centre == 2 - 1
    assert skeleton.parents[skeleton.root] == skeleton.root
    assert set(skeleton.bone_pairs) == from_one(edges) | {(skeleton.root, skeleton.root)}
    assert [joint for joint, _ in skeleton.bone_pairs] == list(range(num_joints))


def test_names_of_mirrored_joints_differ_in_the_side_alone():
    for skeleton in map(get_skeleton, list_skeletons()):
        for left, right in skeleton.left_right:
            assert skeleton.joint_names[left].replace("left", "right") == skeleton.joint_names[right]


def test_parts_of_ntu():
    parts = {name: {joint + 1 for joint in joints} for name, joints in get_skeleton("ntu").parts.items()}
    assert parts == {
        "head": {3, 4},
        "torso": {1, 2, 21},
        "left arm": {5, 6, 7, 8, 22, 23},
        "right arm": {9, 10, 11, 12, 24, 25},
        "left leg": {13, 14, 15, 16},
        "right leg": {17, 18, 19, 20},
    }


def test_parts_of_nw_ucla_cover_every_joint_once():
    skeleton = get_skeleton("nw-ucla")
    assert sorted(joint for joints in skeleton.parts.values() for joint in joints) == list(range(20))


@pytest.mark.parametrize(("given", "meant"), [("NTU", "'ntu'"), ("nw_ucla", "'nw-ucla'"), ("ucla", "'nw-ucla'")])
def test_unknown_name_lists_the_nearest(given, meant):
    with pytest.raises(SkeletonError, match=f"'{given}' is unknown.*did you mean {meant}"):
        get_skeleton(given)


def test_skeletons_are_values():
    skeleton = get_skeleton("ntu")
    assert copy.deepcopy(skeleton) == pickle.loads(pickle.dumps(skeleton)) == skeleton != get_skeleton("nw-ucla")
    assert hash(copy.deepcopy(skeleton)) == hash(skeleton)
    with pytest.raises(AttributeError):
        skeleton.root = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parents": (0, 0)}, "parents: 2 entries for 3 joints"),
        ({"parents": (0, 0, 7)}, "parents: joint 7 does not exist"),
        ({"parents": (0, 2, 1)}, "parents: knee -> foot -> knee is a cycle"),
        ({"parents": (0, 0, 2)}, "parents: 'foot' hangs on nothing.*disconnected"),
        ({"parents": (1, 1, 1)}, "parents: the root 'hip' hangs on a joint"),
        ({"joint_names": ("hip", "knee", "knee")}, "joints: 'knee' is there more than once"),
        ({"joint_names": ()}, "joints: the list is empty"),
        ({"root": 3}, "root: joint 3 does not exist"),
        ({"centre": -1}, "centre: joint -1 does not exist"),
        ({"left_right": ((0, 1), (1, 2))}, "left_right: 'knee' is there more than once"),
        ({"parts": {"leg": (1, 2), "foot": (2,)}}, "parts: 'foot' is there more than once"),
    ],
)
def test_what_is_no_tree_is_refused(change, message):
    leg = {"name": "leg", "joint_names": ("hip", "knee", "foot"), "parents": (0, 0, 1), "centre": 0, "root": 0}
    assert Skeleton(**leg).edges == ((1, 0), (2, 1))
    with pytest.raises(SkeletonError, match=message):
        Skeleton(**leg | change)


def test_importing_graph_leaves_torch_alone():
    code = "import sys, graph; graph.get_skeleton('ntu'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
