"""A benchmark of a user's own, described by a YAML file that `data.benchmark` names.

    skeleton: hand.yaml                    # ntu, nw-ucla, coco, msr-action3d, sbu, or a YAML file of a skeleton
    classes: [wave, grab, point]           # their order is that of the labels
    path: clips                            # folder or file of the clips, for when data.path is not given
    persons: 1                             # most persons in a clip
    window: 64                             # frames that the encoder sees
    transforms: ntu                        # or nw-ucla, or 2d: the family of crops and augmentations
    repeat: 1                              # how often an epoch visits each training clip
    split: {column: subject, train: [1, 2, 3], test: [4, 5]}

Only `skeleton`, `classes` and `path` are required. Without `split` the clips need a column `side`, which also wins
over `split` where there is one. Paths count from the folder of the file. The benchmark is named after the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.words import did_you_mean
from common.yaml_files import YamlError, read_yaml
from feeders.benchmarks.benchmark import STATED_BY_THE_DATA, Benchmark, SplitRule
from feeders.choices import TRANSFORMS
from feeders.errors import DataError
from graph import SkeletonError, get_skeleton

REQUIRED = ("skeleton", "classes", "path")
DEFAULTS: dict[str, Any] = {"persons": 1, "window": 64, "transforms": "ntu", "repeat": 1, "split": None}


def read_own_benchmark(path: Path) -> Benchmark:
    """The benchmark that a YAML file describes. Raises `DataError`, with the file and the key, for what is wrong."""
    try:
        return _build(path, _load(path))
    except YamlError as error:
        raise DataError(str(error)) from None
    except (DataError, SkeletonError) as error:
        raise DataError(f"{path}: {error}") from None


def _build(path: Path, content: dict[str, Any]) -> Benchmark:
    for key in content:
        if key not in (*REQUIRED, *DEFAULTS):
            known = (*REQUIRED, *DEFAULTS)
            raise DataError(f"{key}: unknown key{did_you_mean(str(key), known)}; supported keys: {', '.join(known)}")
    for key in REQUIRED:
        if key not in content:
            raise DataError(f"{key}: the key is missing; add it")
    values = DEFAULTS | content
    for key in ("persons", "window", "repeat"):
        if type(values[key]) is not int or values[key] < 1:
            raise DataError(f"{key}: must be an integer >= 1, got {values[key]!r}")
    if values["transforms"] not in TRANSFORMS:
        raise DataError(f"transforms: must be one of {', '.join(TRANSFORMS)}, got {values['transforms']!r}")
    if values["transforms"] == "nw-ucla" and values["persons"] != 1:
        raise DataError("persons: the transforms nw-ucla take one person; use ntu, or persons: 1")
    classes = _texts("classes", values["classes"])
    if len(set(classes)) < len(classes):
        raise DataError("classes: a name appears twice; give every class its own")
    return Benchmark(
        name=path.stem,
        title=path.stem,
        skeleton=_skeleton(path.parent, values["skeleton"]),
        class_names=classes,
        num_persons=values["persons"],
        transforms=values["transforms"],
        window=values["window"],
        repeat=values["repeat"],
        default_path=str(path.parent.absolute() / _text("path", values["path"])),
        source=f"what `path` of {path} names",
        split=_split(values["split"]),
    )


def _skeleton(folder: Path, value: Any) -> str:
    """A built-in name, or the path of a file, which counts from the folder."""
    name = _text("skeleton", value)
    if name.endswith((".yaml", ".yml")):
        name = str(folder.absolute() / name)
    get_skeleton(name)
    return name


def _split(value: Any) -> SplitRule:
    if value is None:
        return STATED_BY_THE_DATA
    if not isinstance(value, dict) or value.keys() != {"column", "train", "test"}:
        raise DataError("split: needs the keys column, train and test, or leave it out")
    numbers = {}
    for side in ("train", "test"):
        if not isinstance(value[side], list) or not all(type(number) is int for number in value[side]):
            raise DataError(f"split.{side}: must be a list of integers, got {value[side]!r}")
        numbers[side] = frozenset(value[side])
    if both := numbers["train"] & numbers["test"]:
        raise DataError(f"split: {min(both)} is on both sides; a clip either trains or tests")
    return SplitRule(_text("split.column", value["column"]), **numbers)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError("no such file; data.benchmark names a benchmark or the YAML file of your own")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"must be a mapping; it needs the keys {', '.join(REQUIRED)}")
    return content


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{key}: must be a list of names, got {value!r}")
    return tuple(_text(key, item) for item in value)


def _text(key: str, value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise DataError(f"{key}: must be a name, got {value!r} (put a number in quotes)")
