"""The spatial partition: self, inward, outward, normalised by columns."""

from __future__ import annotations

import numpy as np
import pytest

from graph import Skeleton, get_skeleton, spatial_partition


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
