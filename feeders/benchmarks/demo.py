"""The generated demo clips (`feeders.demo`): each action performed twice by 15 subjects in front of
two cameras.

They come in 3-D, and in 2-D as a pose estimator would find them in the cameras' images.
"""

from __future__ import annotations

from dataclasses import replace

from feeders.benchmarks.benchmark import Benchmark, SplitRule
from feeders.demo.actions import ACTIONS

DEMO = Benchmark(
    name="demo",
    title="generated clips, cross-subject",
    skeleton="ntu",
    class_names=tuple(action.name for action in ACTIONS),
    num_persons=2,
    window=32,
    repeat=1,
    default_path="data/demo",
    source="clips that are generated at the first use",
    split=SplitRule("subject", train=frozenset(range(1, 11)), test=frozenset(range(11, 16))),
    transforms="ntu",
    expected_clips={"train": 480, "test": 240},
    clips_per_class=(60,) * len(ACTIONS),
)
DEMO_2D = replace(DEMO, name="demo-2d", title="generated 2-D clips, cross-subject", skeleton="coco", transforms="2d")
GENERATED = (DEMO.name, DEMO_2D.name)
"""The benchmarks whose clips are made when they are not there."""
