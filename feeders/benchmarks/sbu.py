"""SBU Kinect Interaction (Yun et al., CVPR workshops 2012), clean version: two persons, 7 subjects in 21 ordered pairs.

A folder or archive of `sXXsYY/CC/NNN/skeleton_pos.txt` (pair, category, clip), a line a frame number and x y z of 15
joints of the first person, then of the second, in a normalised image: metres are X = 1.28 - 2.56 x, Y = 0.96 - 1.92 y,
Z = 1.28 z (the data set's README). The origin moves to the first person's torso in the first frame, so that both
persons share it. Protocol: the five folds of the data set's README, pairs apart, persons not; the mean of five runs.

Seven of the eight interactions: the copies that circulate lack hugging (category 06), which is skipped where it is
there, so that numbers of both compare. In those copies category 01 holds departing (02) too; the two are separated by
whether the persons come nearer or not, over all clips of both categories.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from feeders.benchmarks.benchmark import Benchmark, SplitRule
from feeders.benchmarks.original import Files, Original, OriginalClip

NUM_JOINTS = 15
TORSO = 2
PATTERN = "s[0-9][0-9]s[0-9][0-9]/[0-9][0-9]/*/skeleton_pos.txt"
PAIR = re.compile(r"s(\d\d)s(\d\d)")
CLASS_NAMES = (
    "approaching",
    "departing",
    "kicking",
    "pushing",
    "shaking hands",
    "exchanging object",
    "punching",
)
APPROACHING, DEPARTING = 0, 1
CLASS_OF_CATEGORY = {"01": APPROACHING, "02": DEPARTING, "03": 2, "04": 3, "05": 4, "07": 5, "08": 6}
FOLDS = {
    1: ("s01s02", "s03s04", "s05s02", "s06s04"),
    2: ("s02s03", "s02s07", "s03s05", "s05s03"),
    3: ("s01s03", "s01s07", "s07s01", "s07s03"),
    4: ("s02s01", "s02s06", "s03s02", "s03s06"),
    5: ("s04s02", "s04s03", "s04s06", "s06s02", "s06s03"),
}
"""The pairs of each fold (the data set's README)."""
CLIPS_OF_FOLD = {1: 51, 2: 48, 3: 52, 4: 50, 5: 60}
SCALE = np.array([-2.56, -1.92, 1.28])
SHIFT = np.array([1.28, 0.96, 0.0])
"""From normalised coordinates to metres."""


def read(files: Files) -> Iterator[OriginalClip]:
    """The clips `sXXsYY_CC_NNN` in the order of their paths; metadata: fold, subject (the first person), partner."""
    fold_of = {pair: fold for fold, pairs in FOLDS.items() for pair in pairs}
    for path in files.matching(PATTERN):
        pair, category, number = path.parts[-4:-1]
        if category not in CLASS_OF_CATEGORY or pair not in fold_of:
            continue
        subject, partner = (int(digits) for digits in PAIR.fullmatch(pair).groups())  # type: ignore[union-attr]
        metadata = {"fold": fold_of[pair], "subject": subject, "partner": partner}
        label = CLASS_OF_CATEGORY[category]
        try:
            lines = files.table(path, columns=1 + 2 * 3 * NUM_JOINTS, delimiter=",")
        except ValueError as error:
            yield OriginalClip(f"{pair}_{category}_{number}", label, metadata, str(error))
            continue
        clip = lines[:, 1:].reshape(-1, 2, NUM_JOINTS, 3) * SCALE + SHIFT
        if label in (APPROACHING, DEPARTING):
            label = APPROACHING if distance_change(clip) < 0 else DEPARTING
        yield OriginalClip(f"{pair}_{category}_{number}", label, metadata, clip - clip[0, 0, TORSO])


def distance_change(clip: np.ndarray) -> float:
    """Metres by which the distance between the torsos grows from the first to the last fifth of a clip (T, 2, V, 3)."""
    distance = np.linalg.norm(clip[:, 0, TORSO] - clip[:, 1, TORSO], axis=1)
    fifth = max(len(clip) // 5, 1)
    return float(distance[-fifth:].mean() - distance[:fifth].mean())


def _fold(test: int) -> Benchmark:
    """The benchmark that tests one fold and trains the others."""
    others = frozenset(FOLDS) - {test}
    return Benchmark(
        name=f"sbu-fold{test}",
        title=f"SBU Kinect Interaction without hugging, fold {test} against the others",
        skeleton="sbu",
        class_names=CLASS_NAMES,
        num_persons=2,
        window=32,
        repeat=5,
        default_path="data/SBU/SBU_skeleton_pos.zip",
        source="the skeletons of SBU Kinect Interaction (sXXsYY/CC/NNN/skeleton_pos.txt) as .zip or as a folder",
        split=SplitRule("fold", train=others, test=frozenset({test})),
        transforms="ntu",
        expected_clips={"train": sum(CLIPS_OF_FOLD[fold] for fold in others), "test": CLIPS_OF_FOLD[test]},
        clips_per_class=(42, 43, 40, 41, 18, 39, 38),
        original=ORIGINAL,
        dataset="sbu",
    )


ORIGINAL = Original(PATTERN, read)
SBU_FOLDS = tuple(_fold(test) for test in FOLDS)
