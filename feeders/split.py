"""Which clips of a store belong to a side of a benchmark, and whether the store fits the benchmark at all."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from feeders.benchmarks import Benchmark, SplitRule
from feeders.choices import Split
from feeders.errors import DataError
from feeders.sides import SIDES, side_column
from feeders.store import PackedStore
from graph import get_skeleton


def split_clips(store: PackedStore, benchmark: Benchmark, split: Split) -> Tensor:
    """Positions in the store of the clips of one side, ascending, (clips,) int64 on the CPU.

    Raises `DataError` when the store does not fit the benchmark or that side has no clip.
    """
    clips = clips_of_side(store, benchmark, split)
    if not len(clips):
        rule = split_rule(store, benchmark)
        wanted = sorted(rule.values(split))
        column = store.metadata[rule.column]
        raise DataError(
            f"benchmark {benchmark.name}: no {split} clip among the {len(store)} clips; its {split} side is "
            f"{rule.column} {_list(wanted)}, the data have {_list(np.unique(column).tolist())}; "
            f"data.path should hold the whole data set"
        )
    return clips


def clips_of_side(store: PackedStore, benchmark: Benchmark, split: Split) -> Tensor:
    """The same, but a side may have no clip."""
    check_fit(store, benchmark)
    rule = split_rule(store, benchmark)
    members = np.isin(store.metadata[rule.column], sorted(rule.values(split)))
    return torch.from_numpy(np.flatnonzero(members))


def split_rule(store: PackedStore, benchmark: Benchmark) -> SplitRule:
    """The sides that the data themselves state for this protocol (`feeders.sides`), or else the benchmark's rule."""
    column = side_column(benchmark)
    if column not in store.metadata:
        return benchmark.split
    return SplitRule(column, train=frozenset({SIDES["train"]}), test=frozenset({SIDES["test"]}))


def stored_skeleton(benchmark: Benchmark) -> str:
    """What stores of this benchmark call their skeleton: the name in its file, wherever that lies."""
    return get_skeleton(benchmark.skeleton).name


def check_fit(store: PackedStore, benchmark: Benchmark) -> None:
    """Skeleton, joints, classes, persons and split column are the benchmark's; `DataError` names what is not."""
    persons, joints = int(store.persons.max()), store.joints
    expected_joints = get_skeleton(benchmark.skeleton).num_joints
    mismatches = [
        (store.skeleton != stored_skeleton(benchmark), "skeleton", store.skeleton, stored_skeleton(benchmark)),
        (joints != expected_joints, "joints", joints, expected_joints),
        (len(store.class_names) != benchmark.num_classes, "classes", len(store.class_names), benchmark.num_classes),
        (persons > benchmark.num_persons, "persons per clip", persons, f"at most {benchmark.num_persons}"),
    ]
    for differs, what, given, expected in mismatches:
        if differs:
            raise DataError(
                f"data.path: the data do not fit benchmark {benchmark.name}: {what} {given}, expected {expected}"
            )
    if (column := split_rule(store, benchmark).column) not in store.metadata:
        raise DataError(
            f"data.path: the data say no {column} of their clips (only "
            f"{', '.join(store.metadata) or 'nothing'}); benchmark {benchmark.name} splits by it"
        )


def _list(values: list[int]) -> str:
    return ", ".join(map(str, values)) or "none"
