"""Which clips of a store belong to a side of a benchmark, and whether the store fits the benchmark at all."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from feeders.benchmarks import Benchmark
from feeders.choices import Split
from feeders.errors import DataError
from feeders.store import PackedStore
from graph import get_skeleton


def split_clips(store: PackedStore, benchmark: Benchmark, split: Split) -> Tensor:
    """Positions in the store of the clips of one side, ascending, (clips,) int64 on the CPU.

    Raises `DataError` when the store does not fit the benchmark or that side has no clip.
    """
    check_fit(store, benchmark)
    column = store.metadata[benchmark.split.column]
    wanted = sorted(benchmark.split.values(split))
    clips = np.flatnonzero(np.isin(column, wanted))
    if not len(clips):
        raise DataError(
            f"benchmark {benchmark.name}: no {split} clip among the {len(store)} clips; its {split} side is "
            f"{benchmark.split.column} {_list(wanted)}, the data have {_list(np.unique(column).tolist())}; "
            f"data.path should hold the whole data set"
        )
    return torch.from_numpy(clips)


def check_fit(store: PackedStore, benchmark: Benchmark) -> None:
    """Skeleton, joints, classes, persons and split column are the benchmark's; `DataError` names what is not."""
    persons, joints = int(store.persons.max()), store.coordinates.shape[1]
    expected_joints = get_skeleton(benchmark.skeleton).num_joints
    mismatches = [
        (store.skeleton != benchmark.skeleton, "skeleton", store.skeleton, benchmark.skeleton),
        (joints != expected_joints, "joints", joints, expected_joints),
        (len(store.class_names) != benchmark.num_classes, "classes", len(store.class_names), benchmark.num_classes),
        (persons > benchmark.num_persons, "persons per clip", persons, f"at most {benchmark.num_persons}"),
    ]
    for differs, what, given, expected in mismatches:
        if differs:
            raise DataError(
                f"data.path: the data do not fit benchmark {benchmark.name}: {what} {given}, expected {expected}"
            )
    if benchmark.split.column not in store.metadata:
        raise DataError(
            f"data.path: the data say no {benchmark.split.column} of their clips (only "
            f"{', '.join(store.metadata) or 'nothing'}); benchmark {benchmark.name} splits by it"
        )


def _list(values: list[int]) -> str:
    return ", ".join(map(str, values)) or "none"
