"""Northwestern-UCLA (Wang et al., CVPR 2014): 10 actions, 10 subjects, three Kinect v1 cameras."""

from __future__ import annotations

from feeders.benchmarks.benchmark import Benchmark, SplitRule

NW_UCLA = Benchmark(
    name="nw-ucla",
    title="NW-UCLA, views 1 and 2 against view 3",
    skeleton="nw-ucla",
    class_names=(
        "pick up with one hand",
        "pick up with two hands",
        "drop trash",
        "walk around",
        "sit down",
        "stand up",
        "donning",
        "doffing",
        "throw",
        "carry",
    ),
    num_persons=1,
    window=52,
    repeat=5,
    default_path="data/NW-UCLA/all_sqe",
    source="the folder all_sqe with its 1484 JSON clips, or a packed store (.h5)",
    split=SplitRule("camera", train=frozenset({1, 2}), test=frozenset({3})),
    transforms="nw-ucla",
    expected_clips={"train": 1020, "test": 464},
    fusion_weights={
        "frhead": (0.6, 0.6, 0.4, 0.4),
        "hyperformer": (0.4, 0.4, 0.3, 0.2),
        "blockgcn": (0.7, 0.5, 0.6, 0.2),
    },
    clips_per_class=(150, 152, 141, 173, 148, 149, 142, 142, 145, 142),
)
