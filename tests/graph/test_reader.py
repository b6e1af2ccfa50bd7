"""A user's skeleton file is read, or refused in one line that names file, key, reason and fix."""

from __future__ import annotations

import pytest

from graph import Skeleton, SkeletonError, get_skeleton

HAND = """\
name: hand
joints: [wrist, palm, thumb, index finger]
root: palm
centre: wrist
parents: {wrist: palm, thumb: palm, index finger: thumb}
left_right: [[thumb, index finger]]
parts: {fingers: [thumb, index finger]}
"""
PARENTS = "parents: {wrist: palm, thumb: palm, index finger: thumb}"


@pytest.fixture
def read(tmp_path):
    def read(text):
        file = tmp_path / "hand.yaml"
        file.write_text(text, encoding="utf-8")
        return get_skeleton(str(file))

    return read


def test_a_users_skeleton(read):
    assert read(HAND) == Skeleton(
        name="hand",
        joint_names=("wrist", "palm", "thumb", "index finger"),
        parents=(1, 1, 1, 2),
        centre=0,
        root=1,
        left_right=((2, 3),),
        parts={"fingers": (2, 3)},
    )


def test_edges_may_come_in_any_order_and_direction(read):
    edges = "edges: [[index finger, thumb], [palm, wrist], [thumb, palm]]"
    assert read(HAND.replace(PARENTS, edges)) == read(HAND)


def test_optional_keys_may_be_left_out(read):
    skeleton = read(HAND[: HAND.index("left_right")])
    assert skeleton.left_right == ()
    assert skeleton.parts == {}


def test_a_file_is_read_anew(read):
    assert read(HAND).name == "hand"
    assert read(HAND.replace("name: hand", "name: paw")).name == "paw"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("centre: wrist\n", "", "centre: the key is missing"),
        ("centre: wrist", "centre: rist", r"centre: no joint 'rist' \(did you mean 'wrist'"),
        ("centre: wrist", "center: wrist", r"center: unknown key \(did you mean 'centre'"),
        ("root: palm", "root: 1", r"root: a value of type int \(1\) where a name"),
        ("root: palm", "root: palm\nroot: wrist", ".*'root' is there more than once"),
        ("name: hand", "name: [hand]", "name: a list .* where a name"),
        ("[wrist, palm,", "[wrist, wrist, palm,", "joints: 'wrist' is there more than once"),
        ("[wrist, palm,", "[true, palm,", r"joints: a truth value \(True\) where a name .*quotes"),
        ("joints: [wrist, palm, thumb, index finger]", "joints: 25", "joints: a value of type int .* where a list"),
        ("wrist: palm,", "", "parents: 'wrist' is without a parent"),
        ("wrist: palm,", "wrist: pam,", r"parents.wrist: no joint 'pam' \(did you mean 'palm'"),
        ("wrist: palm,", "wrist: [palm],", r"parents.wrist: a list .* where a name"),
        ("wrist: palm,", "wrist: palm, wrist: thumb,", ".*'wrist' is there more than once"),
        ("wrist: palm,", "wrist: palm, palm: thumb,", "parents: the root 'palm' has no parent"),
        ("thumb: palm,", "thumb: index finger,", "parents: thumb -> index finger -> thumb is a cycle"),
        (PARENTS, "parents: [palm, palm]", "parents: a list .* where a mapping"),
        (PARENTS, "", "parents, edges: exactly one of the two keys"),
        (PARENTS, PARENTS + "\nedges: [[wrist, palm]]", "parents, edges: exactly one of the two keys"),
        (PARENTS, "edges: [[wrist, palm], [thumb, elbow]]", "edges: no joint 'elbow'"),
        (PARENTS, "edges: [[wrist, palm], [thumb, index finger]]", "edges: 'thumb', 'index finger' are not joined"),
        (PARENTS, "edges: [[wrist, palm], [wrist, thumb], [thumb, palm]]", "edges: '.*' - '.*' closes a cycle"),
        (PARENTS, "edges: [[wrist, palm, thumb]]", "edges: a list .* where a pair of two joints"),
        ("[[thumb, index finger]]", "[[thumb, thumb]]", "left_right: 'thumb' is there more than once"),
        ("{fingers: [thumb, index finger]}", "{fingers: [tumb]}", r"parts.fingers: no joint 'tumb'"),
        ("{fingers: [thumb, index finger]}", "{fingers: thumb}", "parts.fingers: text .* where a list"),
        (HAND, "- wrist\n- palm\n", "holds a list; a skeleton is a mapping"),
        (HAND, "", "holds nothing; a skeleton is a mapping"),
        (HAND, "name: [hand", "not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(read, old, new, message):
    assert HAND.count(old) == 1
    with pytest.raises(SkeletonError, match=rf"hand\.yaml(, line \d+)?: {message}") as error:
        read(HAND.replace(old, new))
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(SkeletonError, match=r"no such file: .*paw\.yaml"):
        get_skeleton(tmp_path / "paw.yaml")


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "hand.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(SkeletonError, match=r"hand\.yaml cannot be read"):
        get_skeleton(tmp_path / "hand.yaml")
