"""Skeletons from YAML files: the project's own (graph/skeletons/) and users', by one reader.

    name: hand                                   # free text
    joints: [wrist, palm, thumb, index finger]   # their order is the order of the joint axis of the clips
    root: wrist                                  # the joint that all bones lead to
    centre: palm                                 # the joint whose first position becomes the origin of a clip
    parents: {palm: wrist, thumb: palm, index finger: palm}         # every joint but the root; or instead
    edges: [[wrist, palm], [palm, thumb], [palm, index finger]]     # bones in any order and direction
    left_right: [[left knee, right knee]]        # optional: mirrored joints
    parts: {fingers: [thumb, index finger]}      # optional: body parts, a joint in one at most
    bone_partners: {index finger: wrist}         # optional: bones that lead to another joint than the parent

Joints are named, never numbered, so that no file depends on counting from 0 or from 1.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from common.words import did_you_mean
from common.yaml_files import YamlError, read_yaml
from graph.skeleton import Skeleton, SkeletonError, check_joint_names

_OWN_FOLDER = Path(__file__).resolve().parent / "skeletons"
_REQUIRED = ("name", "joints", "root", "centre")
_KEYS = (*_REQUIRED, "parents", "edges", "left_right", "parts", "bone_partners")


def list_skeletons() -> list[str]:
    """The names that get_skeleton knows without a file, sorted."""
    return sorted(file.stem for file in _OWN_FOLDER.glob("*.yaml"))


def get_skeleton(name_or_path: str | Path) -> Skeleton:
    """The skeleton of that name or of a user's YAML file (form: see this module's head).

    The names are `coco`, `msr-action3d`, `ntu`, `nw-ucla` and `sbu`. Raises SkeletonError when the name is unknown, or
    the file is missing or does not describe one tree of joints.
    """
    if name_or_path in list_skeletons():
        return _read_own(str(name_or_path))
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return _read(path)
    raise SkeletonError(
        f"skeleton {str(name_or_path)!r} is unknown{did_you_mean(str(name_or_path), list_skeletons())}; "
        f"choose from {', '.join(list_skeletons())}, or give the path of a .yaml file"
    )


def built_in_name(skeleton: Skeleton) -> str | None:
    """The name of the built-in skeleton that has the same joints, whatever its bones; None when there is none."""
    return next((name for name in list_skeletons() if _read_own(name).joint_names == skeleton.joint_names), None)


@functools.cache
def _read_own(name: str) -> Skeleton:
    return _read(_OWN_FOLDER / f"{name}.yaml")


def _read(path: Path) -> Skeleton:
    try:
        return _parse(read_yaml(path))
    except YamlError as error:
        raise SkeletonError(str(error)) from None
    except SkeletonError as error:
        raise SkeletonError(f"{path}: {error}") from None


def _parse(content: Any) -> Skeleton:
    fields = _check_keys(content)
    joint_names = tuple(_text("joints", joint) for joint in _list("joints", fields["joints"]))
    check_joint_names(joint_names)
    joints = _Joints(joint_names)
    root = joints.index("root", fields["root"])
    if "parents" in fields:
        parents = _parents_from_mapping(joints, root, _mapping("parents", fields["parents"]))
    else:
        parents = _parents_from_edges(joints, root, _pairs(joints, "edges", fields["edges"]))
    return Skeleton(
        name=_text("name", fields["name"]),
        joint_names=joint_names,
        parents=parents,
        centre=joints.index("centre", fields["centre"]),
        root=root,
        left_right=tuple(_pairs(joints, "left_right", fields.get("left_right", []))),
        parts={
            _text("parts", part): tuple(
                joints.index(f"parts.{part}", joint) for joint in _list(f"parts.{part}", members)
            )
            for part, members in _mapping("parts", fields.get("parts", {})).items()
        },
        bone_partners=tuple(
            (joints.index("bone_partners", joint), joints.index(f"bone_partners.{joint}", partner))
            for joint, partner in _mapping("bone_partners", fields.get("bone_partners", {})).items()
        ),
    )


class _Joints:
    """Looks joints up by name."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._indices = {name: index for index, name in enumerate(names)}

    def index(self, key: str, name: Any) -> int:
        if _text(key, name) not in self._indices:
            hint = did_you_mean(name, self.names)
            raise SkeletonError(f"{key}: no joint {name!r}{hint}; use a name of the list 'joints'")
        return self._indices[name]


def _parents_from_mapping(joints: _Joints, root: int, mapping: Mapping[Any, Any]) -> tuple[int, ...]:
    parents: dict[int, int] = {root: root}
    for child, parent in mapping.items():
        if joints.index("parents", child) == root:
            raise SkeletonError(f"parents: the root {child!r} has no parent; drop its entry")
        parents[joints.index("parents", child)] = joints.index(f"parents.{child}", parent)
    missing = [name for index, name in enumerate(joints.names) if index not in parents]
    if missing:
        raise SkeletonError(f"parents: {_quoted(missing)} without a parent; every joint but the root needs one")
    return tuple(parents[joint] for joint in range(len(joints.names)))


def _parents_from_edges(joints: _Joints, root: int, edges: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Point every bone at the root: walk outwards from it, each joint reached becomes a child of where we came from."""
    parents: dict[int, int] = {root: root}
    unused = list(edges)
    reached = [root]
    for joint in reached:
        for edge in [edge for edge in unused if joint in edge]:
            unused.remove(edge)
            other = edge[1] if edge[0] == joint else edge[0]
            if other in parents:
                closing = " - ".join(repr(joints.names[end]) for end in edge)
                raise SkeletonError(f"edges: {closing} closes a cycle; a skeleton is a tree, drop one of its bones")
            parents[other] = joint
            reached.append(other)
    cut_off = [name for index, name in enumerate(joints.names) if index not in parents]
    if cut_off:
        raise SkeletonError(
            f"edges: {_quoted(cut_off)} not joined to the root {joints.names[root]!r}, so the skeleton is "
            "disconnected; add the missing bones"
        )
    return tuple(parents[joint] for joint in range(len(joints.names)))


def _check_keys(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise SkeletonError(f"holds {_kind(content)}; a skeleton is a mapping with the keys {', '.join(_KEYS)}")
    for key in content:
        if key not in _KEYS:
            raise SkeletonError(
                f"{key}: unknown key{did_you_mean(str(key), _KEYS)}; supported keys: {', '.join(_KEYS)}"
            )
    for key in _REQUIRED:
        if key not in content:
            raise SkeletonError(f"{key}: the key is missing; add it")
    if ("parents" in content) == ("edges" in content):
        raise SkeletonError("parents, edges: exactly one of the two keys describes the bones; give one")
    return content


def _text(key: str, value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    return _wrong_type(key, value, "a name (text; put it in quotes if it looks like a number or like yes/no)")


def _list(key: str, value: Any) -> list[Any]:
    return value if isinstance(value, list) else _wrong_type(key, value, "a list")


def _mapping(key: str, value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else _wrong_type(key, value, "a mapping")


def _pairs(joints: _Joints, key: str, value: Any) -> list[tuple[int, int]]:
    pairs = []
    for pair in _list(key, value):
        if not isinstance(pair, list) or len(pair) != 2:
            _wrong_type(key, pair, "a pair of two joints, [one, other]")
        pairs.append((joints.index(key, pair[0]), joints.index(key, pair[1])))
    return pairs


def _wrong_type(key: str, value: Any, expected: str) -> NoReturn:
    raise SkeletonError(f"{key}: {_kind(value)} ({value!r}) where {expected} belongs")


def _kind(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "text", bool: "a truth value", type(None): "nothing"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")


def _quoted(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names))} {'is' if len(names) == 1 else 'are'}"
