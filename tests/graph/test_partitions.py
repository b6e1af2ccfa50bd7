"""Groups of joints: the published ones, the skeleton's parts, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graph import SkeletonError, equal_parts, get_skeleton, joint_groups, list_skeletons, with_tips_on_hands

PUBLISHED = {
    ("ntu", "published"): "0 4 2 2 2 2 1 1 2 2 1 1 2 3 3 3 2 3 3 3 1 0 1 0 1",
    ("ntu", "published_bone"): "0 4 2 2 2 2 1 1 2 2 1 1 2 3 3 3 2 3 3 3 1 0 1 0 1",
    ("nw-ucla", "published"): "0 0 0 0 1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2",
    ("nw-ucla", "published_bone"): "0 0 0 0 0 1 1 1 0 1 1 1 0 2 2 2 0 2 2 2",
}


@pytest.mark.parametrize(("name", "partition"), PUBLISHED)
def test_published_partitions(name, partition):
    expected = tuple(map(int, PUBLISHED[name, partition].split()))
    assert joint_groups(get_skeleton(name), partition) == expected


def test_published_partitions_belong_to_the_joints_and_not_to_the_bones():
    ntu = get_skeleton("ntu")
    assert joint_groups(replace(with_tips_on_hands(ntu), name="mine")) == joint_groups(ntu)


@pytest.mark.parametrize("name", ["ntu", "nw-ucla"])
def test_parts_of_a_skeleton(name):
    skeleton = get_skeleton(name)
    groups = joint_groups(skeleton, "parts")
    members = {group: {joint for joint, of in enumerate(groups) if of == group} for group in groups}
    assert sorted(members) == list(range(6))
    assert [members[group] for group in range(6)] == [set(part) for part in skeleton.parts.values()]


def test_a_skeleton_that_nothing_was_published_for_is_parted_by_its_parts():
    skeleton = replace(
        get_skeleton("nw-ucla"),
        joint_names=tuple(f"joint {number}" for number in range(20)),
        parts={"odd": tuple(range(1, 20, 2)), "none": (), "even": tuple(range(0, 20, 2))},
    )
    for partition in ("published", "published_bone", "parts"):
        assert joint_groups(skeleton, partition) == (1, 0) * 10


def test_joints_without_a_part_are_named():
    skeleton = get_skeleton("ntu")
    parts = {name: joints for name, joints in skeleton.parts.items() if name != "head"}
    with pytest.raises(SkeletonError, match=r"parts: 'neck', 'head' of skeleton 'ntu' belong to no part"):
        joint_groups(replace(skeleton, parts=parts), "parts")


def test_an_unknown_partition_is_refused():
    with pytest.raises(SkeletonError, match=r"partition: 'part' is unknown .did you mean 'parts'"):
        joint_groups(get_skeleton("ntu"), "part")


@pytest.mark.parametrize("name", list_skeletons())
def test_equal_parts_of_the_built_in_skeletons(name):
    skeleton, parts = get_skeleton(name), equal_parts(get_skeleton(name))
    missing = {skeleton.joint_names[joint] for joint in set(range(skeleton.num_joints)).difference(*parts)}
    assert missing == ({"spine between shoulders"} if name == "ntu" else set())
    repeated = sum(map(len, parts)) - skeleton.num_joints + len(missing)
    assert repeated == (1 if name == "coco" else 0)
    sides = {joint: side for pair in skeleton.left_right for joint, side in zip(pair, "lr", strict=True)}
    mirrored = dict(skeleton.left_right)
    for left, right in (parts[:2], parts[2:4]):  # the limbs go outwards, left and right alike
        assert [sides[joint] for joint in left] == ["l"] * len(left)
        assert [mirrored[joint] for joint in left] == list(right)


def test_equal_parts_of_a_skeleton_of_ones_own():
    skeleton = replace(
        get_skeleton("nw-ucla"),
        joint_names=tuple(f"joint {number}" for number in range(20)),
        parts={"odd": (1, 3, 5), "none": (), "even": (4, 2, 0)},
    )
    assert equal_parts(skeleton) == ((1, 3, 5), (4, 2, 0))


@pytest.mark.parametrize(
    ("parts", "said"),
    [({"arm": (1, 2), "leg": (3, 4, 5)}, "'arm' has 2, 'leg' has 3; list as many"), ({}, "there are none")],
)
def test_parts_of_different_sizes_are_refused(parts, said):
    names = tuple(f"joint {number}" for number in range(20))
    skeleton = replace(get_skeleton("nw-ucla"), name="mine", joint_names=names, parts=parts)
    with pytest.raises(SkeletonError, match=f"parts: those of skeleton 'mine' must be of equal size here: {said}"):
        equal_parts(skeleton)
