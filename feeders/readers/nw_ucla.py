"""Reads NW-UCLA: a folder of JSON clips `aAA_sSS_eEE_vVV.json` (action, subject, repetition, camera view).

The skeleton-only conversion that the CTR-GCN family distributes (folder `all_sqe`). Each file holds `file_name`,
`label` (1..10) and `skeletons`, a list of frames of 20 joints of [x, y, z] in metres.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from feeders.benchmarks.nw_ucla import NW_UCLA
from feeders.errors import BadClip, DataError, UnusableClip
from feeders.store.packed import PackedStore

NUM_JOINTS = 20
CLASS_OF_ACTION = {action: index for index, action in enumerate((1, 2, 3, 4, 5, 6, 8, 9, 11, 12))}
"""Class index of the action number in a name; actions 7 and 10 do not exist."""
NAME = re.compile(r"a(?P<action>\d\d)_s(?P<subject>\d\d)_e(?P<replication>\d\d)_v(?P<camera>\d\d)")


def read_nw_ucla(folder: Path) -> tuple[PackedStore | None, list[BadClip]]:
    """All clips of the folder in the order of their names, float64, and the clips that cannot be used.

    Files of other kinds than .json are not looked at. The store is None when no clip can be used. Raises `DataError`
    when the folder has no .json file at all.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(_no_clips(folder))
    clips: list[np.ndarray] = []
    names: list[re.Match[str]] = []
    bad: list[BadClip] = []
    for file in files:
        try:
            name = _parse_name(file.stem)
            clips.append(_read_clip(file, CLASS_OF_ACTION[int(name["action"])]))
            names.append(name)
        except UnusableClip as reason:
            bad.append(BadClip(file.name, str(reason)))
    if not clips:
        return None, bad
    store = PackedStore.from_clips(
        clips,
        labels=[CLASS_OF_ACTION[int(name["action"])] for name in names],
        names=[name[0] for name in names],
        class_names=NW_UCLA.class_names,
        skeleton="nw-ucla",
        metadata={column: [int(name[column]) for name in names] for column in ("subject", "camera", "replication")},
    )
    return store, bad


def _parse_name(stem: str) -> re.Match[str]:
    name = NAME.fullmatch(stem)
    if name is None:
        raise UnusableClip("its name is not of the form aAA_sSS_eEE_vVV.json")
    if int(name["action"]) not in CLASS_OF_ACTION:
        raise UnusableClip(f"its name says action {name['action']}, NW-UCLA has {', '.join(map(str, CLASS_OF_ACTION))}")
    return name


def _read_clip(file: Path, label: int) -> np.ndarray:
    """The clip as float64 (T, 1, 20, 3), checked against its name and label (a class index)."""
    content = _load_json(file)
    if not isinstance(content, dict):
        raise UnusableClip("its JSON is not an object with file_name, label and skeletons")
    for key, expected in (("file_name", file.stem), ("label", label + 1)):
        if content.get(key) != expected:
            raise UnusableClip(f"{key} is {content.get(key)!r}, its name says {expected!r}")
    frames = content.get("skeletons")
    if not isinstance(frames, list) or not frames:
        raise UnusableClip("no frames: skeletons is empty or missing")
    return _to_array(frames)[:, None]


def _load_json(file: Path) -> object:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UnusableClip(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise UnusableClip("is not text") from None
    if not text.strip():
        raise UnusableClip("the file is empty")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableClip(f"is not JSON ({error})") from None


def _to_array(frames: list[object]) -> np.ndarray:
    """Frames as float64 (T, 20, 3)."""
    try:
        array = np.asarray(frames)
    except ValueError:  # a ragged list
        array = None
    if array is None or array.shape != (len(frames), NUM_JOINTS, 3):
        raise UnusableClip(_describe_shape(frames))
    if array.dtype.kind not in "iuf":
        raise UnusableClip("a coordinate is not a number")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        frame = int(np.flatnonzero(~np.isfinite(array).all(axis=(1, 2)))[0])
        raise UnusableClip(f"NaN or infinite coordinate in frame {frame}")
    return array


def _describe_shape(frames: list[object]) -> str:
    """Which frame has not 20 joints of three coordinates."""
    for number, frame in enumerate(frames):
        if not isinstance(frame, list) or len(frame) != NUM_JOINTS:
            count = f"{len(frame)} joints" if isinstance(frame, list) else "no list of joints"
            return f"frame {number} has {count}, expected {NUM_JOINTS} joints"
        for joint, point in enumerate(frame):
            if not isinstance(point, list) or len(point) != 3:
                return f"joint {joint} of frame {number} is not a list of three coordinates"
    return f"skeletons is not a list of frames of {NUM_JOINTS} joints of three coordinates"


def _no_clips(folder: Path) -> str:
    below = sorted({file.parent for file in folder.glob("*/*.json")})
    fix = f"did you mean {below[0]}?" if below else "data.path should name the folder all_sqe of NW-UCLA"
    return f"{folder}: no JSON clip (aAA_sSS_eEE_vVV.json) in it; {fix}"
