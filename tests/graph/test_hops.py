"""Distances along the bones, and the hand tips' other place."""

from __future__ import annotations

import numpy as np
import pytest

from graph import Skeleton, get_skeleton, hop_distances, with_tips_on_hands


def test_a_small_tree_by_hand():
    # 0 is the root, 1 and 2 hang on it, 3 hangs on 2.
    tree = Skeleton(name="tree", joint_names=("a", "b", "c", "d"), parents=(0, 0, 0, 2), centre=0, root=0)
    hops = hop_distances(tree)
    assert hops.dtype == np.int64
    np.testing.assert_array_equal(hops, [[0, 1, 1, 2], [1, 0, 2, 3], [1, 2, 0, 1], [2, 3, 1, 0]])


def test_a_single_joint_and_a_chain():
    single = Skeleton(name="dot", joint_names=("a",), parents=(0,), centre=0, root=0)
    assert hop_distances(single).tolist() == [[0]]
    chain = Skeleton(name="chain", joint_names=tuple("abcdef"), parents=(1, 2, 3, 3, 3, 4), centre=0, root=3)
    positions = np.arange(6)
    np.testing.assert_array_equal(hop_distances(chain), abs(positions[:, None] - positions))


def test_only_the_hand_tips_move():
    ntu = get_skeleton("ntu")
    moved = with_tips_on_hands(ntu)
    changed = {
        (ntu.joint_names[joint], ntu.joint_names[after])
        for joint, (before, after) in enumerate(zip(ntu.parents, moved.parents, strict=True))
        if before != after
    }
    assert changed == {("left hand tip", "left hand"), ("right hand tip", "right hand")}
    assert (moved.root, moved.centre, moved.parts) == (ntu.root, ntu.centre, ntu.parts)
    assert hop_distances(ntu).max() == 12
    assert hop_distances(moved).max() == 11


def test_a_skeleton_without_hand_tips_stays():
    assert with_tips_on_hands(get_skeleton("nw-ucla")) == get_skeleton("nw-ucla")
    tip_alone = Skeleton(name="x", joint_names=("left hand tip", "thumb"), parents=(1, 1), centre=0, root=1)
    assert with_tips_on_hands(tip_alone) == tip_alone
    tip_inside = Skeleton(name="x", joint_names=("left hand tip", "left hand"), parents=(0, 0), centre=0, root=0)
    assert with_tips_on_hands(tip_inside) == tip_inside


@pytest.mark.parametrize(("name", "graph"), [("ntu", "ntu"), ("nw-ucla", "ucla")])
@pytest.mark.parametrize("encoder", ["hyperformer", "blockgcn"])
def test_equals_the_published_distances(shared, name, graph, encoder):
    with np.load(shared / "parity" / "encoders" / f"{encoder}_{graph}.npz") as fixture:
        np.testing.assert_array_equal(hop_distances(with_tips_on_hands(get_skeleton(name))), fixture["hops"])
