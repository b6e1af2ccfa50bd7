"""MSR Action3D (Li, Zhang, Liu, CVPR workshops 2010): 20 actions, 10 subjects, one depth sensor, 20 joints.

The archive MSRAction3DSkeletonReal3D: text files `aAA_sSS_eEE_skeleton3D.txt` (action, subject, repetition), 20 lines a
frame, each `x y z confidence` of a joint; metres, y up, z away from the sensor. Protocol: the odd subjects train, the
even ones test, all 20 classes, without ten broken clips (Wang et al., CVPR 2012). Further splits by subject are a YAML
file of your own on the same archive (docs/data.md).

In 13 of the clips some frames are all zeros. They are dropped: they would give the class away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from feeders.benchmarks.benchmark import Benchmark, SplitRule
from feeders.benchmarks.original import Files, Original, OriginalClip

NUM_JOINTS = 20
PATTERN = "a[0-9][0-9]_s[0-9][0-9]_e[0-9][0-9]_skeleton3D.txt"
NAME = re.compile(r"a(\d\d)_s(\d\d)_e(\d\d)")
LEFT_OUT = frozenset(
    {
        *("a02_s03_e02", "a04_s03_e01", "a07_s04_e01", "a13_s09_e01", "a13_s09_e02", "a13_s09_e03"),
        *("a14_s03_e01", "a20_s07_e01", "a20_s07_e03", "a20_s10_e03"),
    }
)
"""Clips with absent or broken skeletons (Wang et al., CVPR 2012)."""


def read(files: Files) -> Iterator[OriginalClip]:
    """The clips in the order of their names, without those of `LEFT_OUT`; metadata: subject, replication."""
    for path in files.matching(PATTERN):
        name = path.name.removesuffix("_skeleton3D.txt")
        if name in LEFT_OUT:
            continue
        action, subject, replication = (int(number) for number in NAME.fullmatch(name).groups())  # type: ignore[union-attr]
        metadata = {"subject": subject, "replication": replication}
        try:
            lines = files.table(path, columns=4)
            if len(lines) % NUM_JOINTS:
                raise ValueError(f"{len(lines)} lines, expected {NUM_JOINTS} a frame")
        except ValueError as error:
            yield OriginalClip(name, action - 1, metadata, str(error))
            continue
        frames = lines[:, :3].reshape(-1, 1, NUM_JOINTS, 3)
        yield OriginalClip(name, action - 1, metadata, frames[frames.any(axis=(1, 2, 3))])


MSR_ACTION3D = Benchmark(
    name="msr-action3d",
    title="MSR Action3D, odd subjects against even ones",
    skeleton="msr-action3d",
    class_names=(
        "high arm wave",
        "horizontal arm wave",
        "hammer",
        "hand catch",
        "forward punch",
        "high throw",
        "draw X",
        "draw tick",
        "draw circle",
        "hand clap",
        "two hand wave",
        "side boxing",
        "bend",
        "forward kick",
        "side kick",
        "jogging",
        "tennis swing",
        "tennis serve",
        "golf swing",
        "pickup and throw",
    ),
    num_persons=1,
    window=52,
    repeat=5,
    default_path="data/MSRAction3D/MSRAction3DSkeletonReal3D.zip",
    source="the archive MSRAction3DSkeletonReal3D as .zip or as a folder of aAA_sSS_eEE_skeleton3D.txt files",
    split=SplitRule("subject", train=frozenset({1, 3, 5, 7, 9}), test=frozenset({2, 4, 6, 8, 10})),
    transforms="nw-ucla",
    expected_clips={"train": 284, "test": 273},
    clips_per_class=(27, 26, 27, 25, 26, 26, 27, 30, 30, 30, 30, 30, 27, 29, 20, 30, 30, 30, 30, 27),
    missing=LEFT_OUT,
    original=Original(PATTERN, read),
)
