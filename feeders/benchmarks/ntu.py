"""The four protocols of NTU RGB+D 60 and 120 (Shahroudy et al., CVPR 2016; Liu et al., TPAMI 2019)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from feeders.benchmarks.benchmark import Benchmark, SplitRule
from feeders.choices import SecondPerson
from feeders.errors import DataError
from feeders.ntu.names import DATASETS, ClipName, parse_name

NTU_STORES = {"ntu60": "data/ntu60.h5", "ntu120": "data/ntu120.h5"}
"""Where `data/prepare_ntu.py` puts a data set and both its protocols look for it (relative to the repository)."""
PUBLISHED_SECOND_PERSON: dict[str, SecondPerson] = {"ntu60": "zero", "ntu120": "copy"}
"""What the arrays that published results come from have in the place of a lone actor's second person."""

LAST_SETUP_OF_NTU60 = 17
ACTIONS_PER_RECORDING = 60
"""Every recording (set-up, subject, replication) of NTU RGB+D has actions 1 to 60, from set-up 18 on 61 to 120, before
each of three cameras."""
CAMERAS = (1, 2, 3)

_NTU60_TRAINERS = frozenset({1, 2, 4, 5, 8, 9, *range(13, 20), 25, 27, 28, 31, 34, 35, 38})
_NTU120_TRAINERS = _NTU60_TRAINERS | {
    *(45, 46, 47, 49, 50, *range(52, 60), 70, 74, 78, *range(80, 87), 89),
    *(*range(91, 96), 97, 98, 100, 103),
}
"""The subjects that train in X-Sub."""


def _ntu(
    dataset: str,
    protocol: str,
    title: str,
    split: SplitRule,
    clips: tuple[int, int],
    fusion_weights: Mapping[str, tuple[float, float, float, float]],
) -> Benchmark:
    """A protocol of NTU RGB+D; `clips` are the numbers of usable training and test clips, `fusion_weights` those that
    are not the same in all protocols."""
    facts = DATASETS[dataset]
    return Benchmark(
        name=f"{dataset}-{protocol}",
        title=title,
        skeleton="ntu",
        class_names=facts.class_names,
        num_persons=2,
        window=64,
        repeat=1,
        default_path=NTU_STORES[dataset],
        source=f"the packed store that `python data/prepare_ntu.py --raw FOLDER --dataset {dataset}` makes",
        split=split,
        transforms="ntu",
        second_person=PUBLISHED_SECOND_PERSON[dataset],
        expected_clips={"train": clips[0], "test": clips[1]},
        clips_per_class=_usable_per_class(dataset),
        missing=facts.missing,
        fusion_weights={
            "hyperformer": (0.4, 0.6, 0.2, 0.2),
            "blockgcn": (0.6, 0.7, 0.35, 0.2),
            **fusion_weights,
        },
        dataset=dataset,
        protocol=protocol,
    )


def _usable_per_class(dataset: str) -> tuple[int, ...]:
    facts = DATASETS[dataset]
    by_half = (DATASETS["ntu60"].files, DATASETS["ntu120"].files - DATASETS["ntu60"].files)
    missing = Counter(parse_name(name).action for name in facts.missing)
    return tuple(
        by_half[(action - 1) // ACTIONS_PER_RECORDING] // ACTIONS_PER_RECORDING - missing[action]
        for action in range(1, facts.actions + 1)
    )


NTU_PROTOCOLS = (
    _ntu(
        "ntu60",
        "xsub",
        "NTU RGB+D 60, half of the subjects against the others",
        SplitRule("subject", _NTU60_TRAINERS, frozenset(range(1, 41)) - _NTU60_TRAINERS),
        clips=(40_091, 16_487),
        fusion_weights={
            "frhead": (2, 2, 1, 1),
            "hypergcn": (1, 1.4, 1.1, 0.3),
            "hypergcn_large": (1, 1.4, 1, 0.5),
        },
    ),
    _ntu(
        "ntu60",
        "xview",
        "NTU RGB+D 60, cameras 2 and 3 against camera 1",
        SplitRule("camera", train=frozenset({2, 3}), test=frozenset({1})),
        clips=(37_646, 18_932),
        fusion_weights={
            "frhead": (0.6, 0.6, 0.4, 0.4),
            "hypergcn": (1, 1.4, 1.1, 0.6),
            "hypergcn_large": (1, 1.4, 1, 0.5),
        },
    ),
    _ntu(
        "ntu120",
        "xsub",
        "NTU RGB+D 120, half of the subjects against the others",
        SplitRule("subject", _NTU120_TRAINERS, frozenset(range(1, 107)) - _NTU120_TRAINERS),
        clips=(63_026, 50_919),
        fusion_weights={
            "frhead": (0.6, 0.75, 0.3, 0.15),
            "hypergcn": (1, 1.5, 0.7, 0.3),
            "hypergcn_large": (1, 1.5, 0.7, 0.3),
        },
    ),
    _ntu(
        "ntu120",
        "xset",
        "NTU RGB+D 120, even set-ups against odd ones",
        SplitRule("setup", train=frozenset(range(2, 33, 2)), test=frozenset(range(1, 33, 2))),
        clips=(54_468, 59_477),
        fusion_weights={
            "frhead": (0.6, 0.75, 0.3, 0.15),
            "hypergcn": (1, 1.5, 0.7, 0.3),
            "hypergcn_large": (1, 1.5, 0.6, 0.6),
        },
    ),
)


def missing_from_recordings(names: Sequence[str]) -> list[str]:
    """Clips of NTU RGB+D that are not among these although others of the same recording are, sorted.

    Unusable clips do not count as missing. Nothing is known, and none is missing, where a name is not of NTU RGB+D.
    """
    try:
        parsed = [parse_name(name) for name in names]
    except DataError:
        return []
    expected = set()
    for setup, subject, replication in {(name.setup, name.subject, name.replication) for name in parsed}:
        first = 1 if setup <= LAST_SETUP_OF_NTU60 else 1 + ACTIONS_PER_RECORDING
        expected |= {
            str(ClipName(setup, camera, subject, replication, action))
            for camera in CAMERAS
            for action in range(first, first + ACTIONS_PER_RECORDING)
        }
    return sorted(expected - set(names) - DATASETS["ntu120"].missing)
