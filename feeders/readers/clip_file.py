"""Reads one clip from one file, whatever data set it may come from.

    *.skeleton   raw NTU RGB+D, with the actors that the published pipeline chooses
    *.json       NW-UCLA (`{"skeletons": [...]}`), or the bare list of frames
    *.npy        (T, V, 3) or (T, M, V, 3)

Letters: T frames, M persons, V joints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from feeders.benchmarks import Benchmark
from feeders.choices import Split
from feeders.errors import DataError, reading, why
from feeders.feeder import ALONE
from feeders.keypoints import fault_of_keypoints
from feeders.ntu.actors import choose_actors
from feeders.ntu.raw import parse_skeleton
from feeders.store.packed import PackedStore
from graph import get_skeleton

SUFFIXES = (".skeleton", ".json", ".npy")


def find_clip_files(places: Iterable[Path]) -> list[Path]:
    """The files named, and in place of each folder all the clips in it, sorted by name.

    Raises `DataError` for a place that does not exist, and for a folder without a clip.
    """
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            with reading(place):
                found = sorted(path for path in place.iterdir() if path.suffix in SUFFIXES)
            if not found:
                raise DataError(f"{place}: no clip in this folder; clips end in {', '.join(SUFFIXES)}")
            files += found
        elif place.exists():
            files.append(place)
        else:
            raise DataError(f"{place}: no such file or folder; check the path")
    return files


def read_clip(path: Path) -> np.ndarray:
    """The coordinates of a clip in metres, (T, M, V, 3): float64 of JSON, as NW-UCLA is computed, else float32.

    Raises `DataError`, which begins with the path, for a file that cannot be read or is not a clip.
    """
    try:
        with reading(path):
            if path.suffix == ".skeleton":
                actors = choose_actors(parse_skeleton(path.read_bytes()))
                return with_absent_person(actors.positions, actors.alone)
            if path.suffix == ".json":
                return clip_from_json(json.loads(path.read_text(encoding="utf-8")))
            if path.suffix == ".npy":
                return as_clip(np.load(path, allow_pickle=False))
    except (ValueError, EOFError, RecursionError) as error:  # of the JSON parser and of numpy
        raise DataError(f"{path}: cannot be read as a clip ({why(error)})") from None
    except DataError as error:
        raise DataError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    raise DataError(f"{path}: not a clip; clips end in {', '.join(SUFFIXES)}")


def with_absent_person(clip: np.ndarray, alone: bool) -> np.ndarray:
    """The clip (T, M, V, 3), of one person only if that is a lone actor, as `pack_clips` understands it.

    Else a second person of zeros is added: where the data set copies lone actors, this one is none.
    """
    return clip if alone or clip.shape[1] > 1 else np.concatenate([clip, np.zeros_like(clip)], axis=1)


def clip_from_json(content: Any) -> np.ndarray:
    """The clip in a JSON value: a list of frames, or an object that has one under `skeletons`.

    Raises `DataError` when it holds none.
    """
    if isinstance(content, dict):
        content = content.get("skeletons")
    if not isinstance(content, list):
        raise DataError('expected a list of frames, or an object with one under "skeletons"')
    try:
        return as_clip(np.asarray(content), np.float64)
    except ValueError:  # ragged
        raise DataError("the frames differ in their number of joints") from None


def as_clip(array: np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """An array (T, V, 3) or (T, M, V, 3) as (T, M, V, 3) of this type, without persons behind the last one there is.

    Raises `DataError` for another shape, no frame, text, NaN or infinity, or zeros alone.
    """
    if array.dtype.kind not in "fiu":
        raise DataError(f"holds {array.dtype}, expected numbers")
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise DataError(f"has shape {array.shape}, expected (frames, joints, 3) or (frames, persons, joints, 3)")
    clip = array.astype(dtype)
    clip = clip if clip.ndim == 4 else clip[:, None]
    if not np.isfinite(clip).all():
        frame = int(np.flatnonzero(~np.isfinite(clip).all(axis=(1, 2, 3)))[0])
        raise DataError(f"frame {frame} has a coordinate that is NaN or infinite")
    present = np.flatnonzero(clip.any(axis=(0, 2, 3)))
    if not len(present):
        raise DataError("all coordinates are zero")
    return clip[:, : present[-1] + 1]


def pack_clips(
    clips: Sequence[np.ndarray], names: Sequence[str], benchmark: Benchmark, split: Split = "test"
) -> PackedStore:
    """A store of loose clips (T, M, V, 3) that a `Feeder` of this benchmark takes for one side; their labels are 0.

    A clip of one person is that of a lone actor. Absent persons beyond those of the benchmark are dropped.

    Raises `DataError`, naming the clip, when its joints or persons are not the benchmark's, or it holds pixels.
    """
    skeleton, most = get_skeleton(benchmark.skeleton), benchmark.num_persons
    clips = [clip if clip[:, most:].any() else clip[:, :most] for clip in clips]
    for name, clip in zip(names, clips, strict=True):
        if clip.shape[2] != skeleton.num_joints:
            raise DataError(f"{name}: {clip.shape[2]} joints; benchmark {benchmark.name} has {skeleton.num_joints}")
        if clip.shape[1] > most:
            raise DataError(f"{name}: {clip.shape[1]} persons; benchmark {benchmark.name} has {most}")
        if benchmark.transforms == "2d" and (reason := fault_of_keypoints(clip)):
            raise DataError(f"{name}: {reason}")
    return PackedStore.from_clips(
        clips,
        labels=[0] * len(clips),
        names=[f"{number}" for number in range(len(clips))],
        class_names=benchmark.class_names,
        skeleton=skeleton.name,
        metadata={
            benchmark.split.column: [min(benchmark.split.values(split))] * len(clips),
            ALONE: [clip.shape[1] == 1 for clip in clips],
        },
    )
