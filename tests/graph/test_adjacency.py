"""The spatial partition: self, inward, outward, normalised by columns."""

from __future__ import annotations

import numpy as np
import pytest

from graph import Skeleton, get_skeleton, root_partition, spatial_partition


def test_a_small_tree_by_hand():
    # 0 is the root, 1 and 2 hang on it, 3 hangs on 2.
    tree = Skeleton(name="tree", joint_names=("a", "b", "c", "d"), parents=(0, 0, 0, 2), centre=0, root=0)
    inward = [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    outward = [[0, 0, 0, 0], [0.5, 0, 0, 0], [0.5, 0, 0, 0], [0, 0, 1, 0]]
    partition = spatial_partition(tree)
    assert partition.dtype == np.float32
    np.testing.assert_array_equal(partition, np.array([np.eye(4), inward, outward]))


@pytest.mark.parametrize(
    ("name", "non_zeros", "sums", "empty_inward", "empty_outward"),
    [
        ("ntu", [25, 24, 24], [25, 24, 20], [20], [3, 15, 19, 21, 23]),
        ("nw-ucla", [20, 19, 19], [20, 19, 15], [2], [3, 7, 11, 15, 19]),
    ],
)
def test_counts_of_the_published_matrices(name, non_zeros, sums, empty_inward, empty_outward):
    partition = spatial_partition(get_skeleton(name))
    assert np.count_nonzero(partition, axis=(1, 2)).tolist() == non_zeros
    assert partition.sum(axis=(1, 2)).tolist() == sums
    assert np.flatnonzero(partition[1].sum(axis=0) == 0).tolist() == empty_inward
    assert np.flatnonzero(partition[2].sum(axis=0) == 0).tolist() == empty_outward


@pytest.mark.parametrize(("name", "file"), [("ntu", "ctrgcn_ntu"), ("nw-ucla", "ctrgcn_ucla")])
def test_equals_the_published_matrices(shared, name, file):
    with np.load(shared / "parity" / "encoders" / f"{file}.npz") as fixture:
        np.testing.assert_array_equal(spatial_partition(get_skeleton(name)), fixture["graph/A"])


def test_the_root_partition_of_a_small_tree_by_hand():
    # 0 is the root, 1 and 2 hang on it, 3 hangs on 2, 4 on 3. A column is divided by 1 + its neighbours.
    tree = Skeleton(name="tree", joint_names=tuple("abcde"), parents=(0, 0, 0, 2, 3), centre=0, root=0)
    third, half = 1 / 3, 1 / 2
    itself = np.diag([third, half, third, third, half])
    outward = np.zeros((5, 5))
    outward[0, 1], outward[0, 2] = half, third
    outward[2, 3] = third  # to the second ring; beyond it no direction is told from the other
    others = np.zeros((5, 5))
    others[1, 0] = others[2, 0] = others[3, 2] = others[4, 3] = third
    others[3, 4] = half
    partition = root_partition(tree)
    assert partition.dtype == np.float32
    np.testing.assert_array_equal(partition, np.array([itself, others, outward], np.float32))


@pytest.mark.parametrize(
    ("name", "non_zeros", "sums", "empty", "outward"),
    [
        ("ntu", [25, 40, 8], [8.95, 13.3, 2.75], [3], [0, 1, 2, 3, 4, 5, 8, 9]),
        ("nw-ucla", [20, 31, 7], [7.28333, 10.3, 2.41667], [3], [0, 1, 3, 4, 5, 8, 9]),
    ],
)
def test_counts_of_the_published_root_partition(name, non_zeros, sums, empty, outward):
    partition = root_partition(get_skeleton(name))
    assert np.count_nonzero(partition, axis=(1, 2)).tolist() == non_zeros
    np.testing.assert_allclose(partition.sum(axis=(1, 2)), sums, atol=1e-5)
    assert np.flatnonzero(partition[1].sum(axis=0) == 0).tolist() == empty
    assert np.flatnonzero(partition[2].sum(axis=0)).tolist() == outward
    np.testing.assert_allclose(partition.sum(axis=(0, 1)), 1, rtol=1e-6)


@pytest.mark.parametrize(("name", "graph"), [("ntu", "ntu"), ("nw-ucla", "ucla")])
def test_equals_the_published_root_partition(shared, name, graph):
    with np.load(shared / "parity" / "encoders" / f"stgcn_{graph}.npz") as fixture:
        np.testing.assert_array_equal(root_partition(get_skeleton(name)), fixture["graph/A"])
