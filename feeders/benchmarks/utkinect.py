"""UTKinect-Action3D (Xia, Chen, Aggarwal, CVPR workshops 2012): 10 actions, 10 subjects, one Kinect v1, turning people.

A folder or archive of 20 recordings `joints_sSS_eEE.txt` (subject, repetition), each line a frame number and x y z of
20 joints (metres, y up, z away from the sensor; the order of NW-UCLA), and `actionLabel.txt`: a line `sSS_eEE`, then a
line `action: first last` for each action, frame numbers of that recording. Protocol: subjects 1 to 5 train, 6 to 10
test.

Some lines of the label file are wrong or overlap; seven are replaced by the corrections that the program of Vemulapalli
et al. (CVPR 2014) is distributed with. One clip (s10_e02 carry) was never recorded, so there are 199. Frame numbers
skip, and where two rows have the same one both are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from feeders.benchmarks.benchmark import Benchmark, SplitRule
from feeders.benchmarks.original import Files, Original, OriginalClip
from feeders.errors import DataError

NUM_JOINTS = 20
CLASSES = ("walk", "sitDown", "standUp", "pickUp", "carry", "throw", "push", "pull", "waveHands", "clapHands")
"""As the label file writes them, in its order."""
PATTERN = "joints_s[0-9][0-9]_e[0-9][0-9].txt"
LABELS = "actionLabel.txt"
LINE = re.compile(r"(?P<recording>s\d\d_e\d\d)|(?P<action>\w+):\s*(?P<first>\d+|NaN)\s+(?P<last>\d+|NaN)")
CORRECTIONS = {
    "s01_e02_walk": (154, 270),
    "s03_e01_push": (3556, 3622),
    "s07_e01_pull": (3432, 3522),
    "s07_e02_pull": (2530, 2618),
    "s09_e01_push": (3266, 3300),
    "s10_e01_carry": (1394, 1676),
    "s10_e02_pull": (1994, 2062),
}
"""First and last frame number of the clips whose line in the label file is wrong."""


def read(files: Files) -> Iterator[OriginalClip]:
    """The clips `sSS_eEE_action` in the order of the label file; metadata: subject, replication.

    Raises `DataError` when the label file is not there or cannot be understood.
    """
    recordings = {path.stem.removeprefix("joints_"): path for path in files.matching(PATTERN)}
    for recording, spans in _labels(files).items():
        metadata = {"subject": int(recording[1:3]), "replication": int(recording[5:7])}
        try:
            if recording not in recordings:
                raise ValueError(f"joints_{recording}.txt is missing")
            rows: np.ndarray | str = files.table(recordings[recording], columns=1 + 3 * NUM_JOINTS)
        except ValueError as error:
            rows = str(error)
        for action, (first, last) in spans.items():
            clip = rows
            if isinstance(rows, np.ndarray):
                inside = (first <= rows[:, 0]) & (rows[:, 0] <= last)
                clip = rows[inside, 1:].reshape(-1, 1, NUM_JOINTS, 3)
            yield OriginalClip(f"{recording}_{action}", CLASSES.index(action), metadata, clip)


def _labels(files: Files) -> dict[str, dict[str, tuple[int, int]]]:
    """Recording -> action -> first and last frame number."""
    paths = files.matching(LABELS)
    if not paths:
        raise DataError(f"{files.place}: no {LABELS} beside the recordings; it says where the clips begin and end")
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    recording = ""
    try:
        text = files.text(paths[0])
    except ValueError as error:
        raise DataError(f"{files.place}: {LABELS} {error}") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line.strip())
        if match is None or (match["action"] and (match["action"] not in CLASSES or not recording)):
            raise DataError(f"{files.place}: {LABELS}, line {number}: expected sSS_eEE or `action: first last`")
        if match["recording"]:
            recording = match["recording"]
            spans[recording] = {}
        elif "NaN" not in (match["first"], match["last"]):
            given = int(match["first"]), int(match["last"])
            spans[recording][match["action"]] = CORRECTIONS.get(f"{recording}_{match['action']}", given)
    return spans


UTKINECT = Benchmark(
    name="utkinect",
    title="UTKinect-Action3D, subjects 1 to 5 against 6 to 10",
    skeleton="nw-ucla",
    class_names=(
        "walk",
        "sit down",
        "stand up",
        "pick up",
        "carry",
        "throw",
        "push",
        "pull",
        "wave hands",
        "clap hands",
    ),
    num_persons=1,
    window=52,
    repeat=5,
    default_path="data/UTKinect/UTKinect_joints.zip",
    source="the joints of UTKinect-Action3D (joints_sSS_eEE.txt and actionLabel.txt) as .zip or as a folder",
    split=SplitRule("subject", train=frozenset(range(1, 6)), test=frozenset(range(6, 11))),
    transforms="nw-ucla",
    expected_clips={"train": 100, "test": 99},
    clips_per_class=(20, 20, 20, 20, 19, 20, 20, 20, 20, 20),
    original=Original(PATTERN, read),
)
