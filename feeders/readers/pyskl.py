"""Reads the annotation pickles of PYSKL, 3-D (`ntu60_3danno.pkl`, ...) and 2-D (`ntu60_hrnet.pkl`, ...).

One dictionary. `split`: name -> list or tuple of clip IDs, such as `xsub_train` and `xsub_val`. `annotations`: a list
of dictionaries with `frame_dir` (the ID; in some files `filename`), `label` (from 0), `total_frames` and `keypoint`:
3-D: (M, T, V, 3) in metres, as the camera saw them; an absent person's frame is zero.
2-D: (M, T, V, 2) in pixels, x to the right and y down, beside `keypoint_score`, (M, T, V), and `img_shape`, (height,
width). Which of the two a file has to be is up to the benchmark.

Letters: M persons, T frames, V joints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.pickles import Array, PickleRefusedError, load_arrays
from feeders.benchmarks import BENCHMARKS, Benchmark
from feeders.benchmarks.benchmark import NEITHER, SIDE_COLUMN, SIDES
from feeders.choices import SPLITS, Split
from feeders.errors import DataError, UnusableClip, why
from feeders.keypoints import normalise_keypoints
from feeders.ntu.names import parse_name
from feeders.readers.collector import ClipCollector, Reading
from graph import get_skeleton

IMAGE_SIZE = (1080, 1920)
"""Height and width where a 2-D annotation does not say them, as in PYSKL."""
SIDE_WORDS: dict[str, Split] = {"train": "train", "val": "test", "test": "test"}


def read_pyskl(path: Path, benchmark: Benchmark, splits: Sequence[Split] = SPLITS) -> Reading:
    """The clips of the sides asked for, float32, in the order of the file, moved like those of `prepare_ntu`.

    3-D: frames without anyone are dropped; joint 2 of the first person where it first appears becomes the origin;
    absent persons stay zero. 2-D: all frames stay; coordinates are divided by the size of the image
    (`normalise_keypoints`); persons behind the last that the benchmark has room for are left out.

    The splits of the benchmark's protocol become the column `side`, those of others `side_<protocol>`; where the IDs
    are NTU names, set-up, camera, subject and replication become columns. Nothing that the file asks for is run. Raises
    `DataError` when it is damaged, is none of this kind, or belongs to another data set than the benchmark.
    """
    content = _load(path)
    protocols = _protocols(path, content["split"])
    _refuse_other_dataset(path, benchmark, protocols)
    is_2d = benchmark.transforms == "2d"
    _refuse_other_kind(path, benchmark, content["annotations"], is_2d)
    sides = {
        SIDE_COLUMN if protocol in ("", benchmark.protocol) else f"{SIDE_COLUMN}_{protocol}": ids
        for protocol, ids in protocols.items()
    }
    chosen = {SIDES[split] for split in splits}
    centre = get_skeleton(benchmark.skeleton).centre
    collector = ClipCollector(benchmark)
    seen: set[str] = set()
    numbers = _numbers_in_names(content["annotations"])
    for position, entry in enumerate(content["annotations"]):
        name = _name_of(entry)
        if name is None:
            collector.refuse(f"annotation {position}", "has no frame_dir")
            continue
        metadata = numbers.get(name, {}) | {column: ids.get(name, NEITHER) for column, ids in sides.items()}
        if SIDE_COLUMN in metadata and metadata[SIDE_COLUMN] not in chosen:
            continue
        if name in seen:
            collector.refuse(name, f"annotation {position} has the frame_dir of an earlier one")
            continue
        seen.add(name)
        try:
            if is_2d:
                clip = _image_clip(entry)[:, : benchmark.num_persons]
            else:
                clip = move_to_origin(_array(entry, "keypoint", ("persons", "frames", "joints", 3)), centre)
            if type(entry.get("label")) is not int:
                raise UnusableClip("has no label")
        except UnusableClip as reason:
            collector.refuse(name, str(reason))
        else:
            collector.add(name, entry["label"], metadata, clip)
    return collector.finish()


def _name_of(entry: Any) -> str | None:
    name = entry.get("frame_dir", entry.get("filename")) if type(entry) is dict else None
    return name if type(name) is str else None


def _array(entry: dict[str, Any], key: str, axes: tuple[str | int, ...]) -> np.ndarray:
    """The array of that name, whose axes have these lengths where they are numbers."""
    array = entry[key].values if type(entry.get(key)) is Array else None
    fits = array is not None and array.ndim == len(axes)
    if array is None or not fits or any(type(n) is int and n != m for n, m in zip(axes, array.shape, strict=True)):
        shape = "none" if array is None else f"of shape {array.shape}"
        raise UnusableClip(f"{key} is {shape}, expected ({', '.join(map(str, axes))})")
    return array


def _image_clip(entry: dict[str, Any]) -> np.ndarray:
    """The 2-D annotation as (T, M, V, 3) float32."""
    keypoint = _array(entry, "keypoint", ("persons", "frames", "joints", 2))
    confidence = _array(entry, "keypoint_score", keypoint.shape[:3])
    size = entry.get("img_shape", IMAGE_SIZE)
    if type(size) not in (tuple, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise UnusableClip(f"img_shape is {size!r}, expected (height, width) in pixels")
    return normalise_keypoints(keypoint, confidence, (size[0], size[1])).swapaxes(0, 1)


def move_to_origin(keypoint: np.ndarray, centre: int) -> np.ndarray:
    """(M, T, V, 3) to (T, M, V, 3) float32 without empty frames, the first person's `centre` joint at the origin of
    the first frame in which that person is there; absent persons stay zero."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite; such a clip is refused anyway
        clip = keypoint.astype(np.float32).swapaxes(0, 1)
    present = np.any(clip != 0, axis=(2, 3))
    nonempty = np.flatnonzero(np.count_nonzero(present, axis=1))
    clip, present = clip[nonempty], present[nonempty]
    if np.any(present[:, :1]):
        first = int(np.argmax(present[:, 0]))
        with np.errstate(over="ignore", invalid="ignore"):  # infinity minus infinity, too
            clip = clip - clip[first, 0, centre]
        clip[~present] = 0
    return clip


def fitting_benchmark(path: Path) -> Benchmark | None:
    """One whose classes are those of the file, by its splits; None where those do not decide.

    Raises `DataError` like `read_pyskl`.
    """
    return _only_fit(_protocols(path, _load(path)["split"]))


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = load_arrays(file, path.stat().st_size)
    except PickleRefusedError as error:
        raise DataError(f"{path}: not an annotation file: {error}") from None
    except (OSError, MemoryError) as error:
        raise DataError(f"{path}: cannot be read ({why(error)})") from None
    expected = {"split": dict, "annotations": list}
    for key, kind in expected.items():
        if type(content) is not dict or type(content.get(key)) is not kind:
            raise DataError(f"{path}: not an annotation file: it lacks the {kind.__name__} {key!r}")
    return content


def _protocols(path: Path, split: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Protocol -> clip ID -> side."""
    sides: dict[str, dict[str, int]] = {}
    for name, ids in split.items():
        protocol, _, word = str(name).rpartition("_")
        if number := re.fullmatch(r"(train|test)(\d+)", word):  # the numbered splits of UCF101 and HMDB51
            word, protocol = number[1], number[2]
        if word not in SIDE_WORDS or type(ids) not in (list, tuple) or not all(type(clip) is str for clip in ids):
            raise DataError(f"{path}: split {name!r} is not a list of clip IDs named <protocol>_train or _val")
        sides.setdefault(protocol, {}).update(dict.fromkeys(ids, SIDES[SIDE_WORDS[word]]))
    return sides


def _only_fit(protocols: Iterable[str]) -> Benchmark | None:
    """The benchmark that alone has one of these protocols: NTU60's X-View or NTU120's X-Set; None if there is none."""
    for protocol in protocols:
        fitting = [each for each in BENCHMARKS.values() if protocol and each.protocol == protocol]
        if len(fitting) == 1:
            return fitting[0]
    return None


def _refuse_other_dataset(path: Path, benchmark: Benchmark, protocols: Iterable[str]) -> None:
    known = _only_fit(protocols)
    if known is not None and benchmark.dataset and benchmark.dataset != known.dataset:
        raise DataError(
            f"{path}: its splits are those of {known.dataset}, benchmark {benchmark.name} needs {benchmark.dataset}; "
            f"set data.benchmark to {known.name}, or name another file"
        )


def _refuse_other_kind(path: Path, benchmark: Benchmark, annotations: list[Any], is_2d: bool) -> None:
    """One error for a whole file that is 2-D where the benchmark is 3-D, or the other way round."""
    keypoints = (entry.get("keypoint") for entry in annotations if type(entry) is dict)
    sizes = {array.values.shape[-1] for array in keypoints if type(array) is Array and array.values is not None}
    if sizes == {3 if is_2d else 2}:
        given, needed = ("3-D", "2-D") if is_2d else ("2-D", "3-D")
        fix = "name a 2-D file" if is_2d else "describe them in a benchmark file with transforms: 2d (docs/data.md)"
        raise DataError(f"{path}: {given} annotations, benchmark {benchmark.name} takes {needed} ones; {fix}")


def _numbers_in_names(annotations: list[Any]) -> dict[str, dict[str, int]]:
    """Clip ID -> what it says, if all are NTU names; else nothing."""
    found = {}
    for entry in annotations:
        name = _name_of(entry)
        try:
            numbers = parse_name(str(name))._asdict()
        except DataError:
            return {}
        found[str(name)] = {key: value for key, value in numbers.items() if key != "action"}
    return found
