"""The joint operator I - A^k, against its definition and the published matrices."""

from __future__ import annotations

import numpy as np
import pytest

from graph import Skeleton, SkeletonError, get_skeleton, joint_operator

# The published links (i, j), A[i, j] = 1, joints counted from 1.
NTU_LINKS = """(1,2) (21,2) (3,21) (4,3) (5,21) (6,5) (7,6) (8,7) (23,8) (22,23) (9,21) (10,9) (11,10) (12,11) (25,12)
(24,25) (13,1) (14,13) (15,14) (16,15) (17,1) (18,17) (19,18) (20,19)"""
NW_UCLA_LINKS = """(2,1) (3,2) (3,4) (3,5) (5,6) (6,7) (7,8) (3,9) (9,10) (10,11) (11,12) (1,13) (13,14) (14,15) (15,16)
(1,17) (17,18) (18,19) (19,20)"""
LINKS = {"ntu": NTU_LINKS, "nw-ucla": NW_UCLA_LINKS}
NON_ZEROS = {"ntu": [25, 24, 22, 17, 12, 8, 4, 2, 0], "nw-ucla": [20, 19, 15, 12, 8, 4, 2, 0]}
"""Of A^k, from k = 0 on."""


def published_links(name):
    num_joints = get_skeleton(name).num_joints
    links = np.zeros((num_joints, num_joints))
    for pair in LINKS[name].split():
        i, j = map(int, pair.strip("()").split(","))
        links[i - 1, j - 1] = 1
    return links


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("order", range(1, 10))
def test_powers_of_the_published_links(name, order):
    power = np.linalg.matrix_power(published_links(name), order)
    operator = joint_operator(get_skeleton(name), order)
    assert operator.dtype == np.float32
    np.testing.assert_array_equal(operator, np.eye(len(power)) - power)
    counts = NON_ZEROS[name]
    assert np.count_nonzero(power) == (counts[order] if order < len(counts) else 0)


@pytest.mark.parametrize(("name", "graph"), [("ntu", "ntu"), ("nw-ucla", "ucla")])
def test_equals_the_published_operator(shared, name, graph):
    with np.load(shared / "parity" / "encoders" / f"infogcn_{graph}.npz") as fixture:
        np.testing.assert_array_equal(joint_operator(get_skeleton(name), 1), fixture["extra/A_vector"])


def test_towards_the_ancestor_order_1_makes_bones_on_nw_ucla():
    skeleton = get_skeleton("nw-ucla")
    positions = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    bones = joint_operator(skeleton, 1, "to_ancestor") @ positions
    expected = positions - positions[list(skeleton.parents)]
    expected[skeleton.root] = positions[skeleton.root]
    np.testing.assert_allclose(bones, expected, atol=1e-6)


def test_directions_differ_on_nw_ucla_alone():
    for order in range(1, 7):
        ucla, ntu = get_skeleton("nw-ucla"), get_skeleton("ntu")
        to_ancestor, published = (joint_operator(ucla, order, to) for to in ("to_ancestor", "published"))
        np.testing.assert_array_equal(to_ancestor, published.T)
        assert not np.array_equal(to_ancestor, published)
        np.testing.assert_array_equal(joint_operator(ntu, order, "to_ancestor"), joint_operator(ntu, order))


def test_another_skeleton_is_rooted_where_it_says():
    # a <- b <- c, a <- d; a is the root.
    tree = Skeleton(name="tree", joint_names=tuple("abcd"), parents=(0, 0, 1, 0), centre=2, root=0)
    np.testing.assert_array_equal(joint_operator(tree, 1), [[1, 0, 0, 0], [-1, 1, 0, 0], [0, -1, 1, 0], [-1, 0, 0, 1]])
    np.testing.assert_array_equal(joint_operator(tree, 2), [[1, 0, 0, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(joint_operator(tree, 3), np.eye(4))


@pytest.mark.parametrize("order", [0, -1, 1.0, True, "1"])
def test_orders_that_are_none_are_refused(order):
    with pytest.raises(SkeletonError, match=rf"order: must be an integer >= 1, got {order!r}"):
        joint_operator(get_skeleton("ntu"), order)


def test_an_unknown_direction_is_refused():
    with pytest.raises(SkeletonError, match=r"direction: 'to_ancestors' is unknown .did you mean 'to_ancestor'"):
        joint_operator(get_skeleton("ntu"), 1, "to_ancestors")
