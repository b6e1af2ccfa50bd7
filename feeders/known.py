"""What is known of the data sets beforehand: clips per class, clips that belong together, clips that are unusable."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from feeders.benchmarks import Benchmark
from feeders.errors import DataError
from feeders.ntu.names import DATASETS, ClipName, parse_name
from feeders.store import PackedStore

NW_UCLA_PER_CLASS = (150, 152, 141, 173, 148, 149, 142, 142, 145, 142)
LAST_SETUP_OF_NTU60 = 17
ACTIONS_PER_RECORDING = 60
"""Every recording (set-up, subject, replication) of NTU RGB+D has actions 1 to 60, from set-up 18 on 61 to 120, before
each of three cameras."""
CAMERAS = (1, 2, 3)


def clips_per_class(benchmark: Benchmark) -> np.ndarray | None:
    """How many clips each class has in the whole data set, (K,) int64; None where that is not known."""
    dataset = DATASETS.get(benchmark.name.partition("-")[0])
    if dataset is not None:
        recorded = [DATASETS["ntu60"].files, DATASETS["ntu120"].files - DATASETS["ntu60"].files]
        counts = np.repeat(recorded, ACTIONS_PER_RECORDING)[: dataset.actions] // ACTIONS_PER_RECORDING
        actions = [parse_name(name).action - 1 for name in dataset.missing]
        return counts - np.bincount(actions, minlength=dataset.actions)
    if benchmark.name == "nw-ucla":
        return np.array(NW_UCLA_PER_CLASS)
    if benchmark.name == "demo":
        clips = sum(benchmark.expected_clips.values())
        return np.full(benchmark.num_classes, clips // benchmark.num_classes)
    return None


def unusable_clips(store: PackedStore) -> list[str]:
    """The clips of the store that stand on the published list of NTU clips with absent or unusable skeletons."""
    return sorted(DATASETS["ntu120"].missing.intersection(store.names)) if store.skeleton == "ntu" else []


def missing_clips(store: PackedStore) -> list[str]:
    """NTU clips that are not in the store although others of the same recording are; unusable ones are not missed."""
    names = _parsed(store.names) if store.skeleton == "ntu" else None
    if names is None:
        return []
    wanted = set()
    for setup, subject, replication in {(name.setup, name.subject, name.replication) for name in names}:
        first = 1 if setup <= LAST_SETUP_OF_NTU60 else 1 + ACTIONS_PER_RECORDING
        wanted |= {
            str(ClipName(setup, camera, subject, replication, action))
            for camera in CAMERAS
            for action in range(first, first + ACTIONS_PER_RECORDING)
        }
    return sorted(wanted - set(store.names) - DATASETS["ntu120"].missing)


def _parsed(names: Iterable[str]) -> list[ClipName] | None:
    try:
        return [parse_name(name) for name in names]
    except DataError:
        return None
