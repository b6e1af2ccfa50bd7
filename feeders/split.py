"""Which clips of a store belong to a side of a benchmark, and whether the store fits the benchmark at all."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from feeders.benchmarks import BENCHMARKS, Benchmark, SplitRule
from feeders.benchmarks.benchmark import SIDE_COLUMN, STATED_BY_THE_DATA
from feeders.choices import SPLITS, Part, Split
from feeders.errors import DataError
from feeders.sampling import held_out
from feeders.store.packed import PackedStore
from graph import get_skeleton

SUBJECT = "subject"
"""Metadata column by which clips are held out for validation."""


def split_clips(store: PackedStore, benchmark: Benchmark, split: Split) -> Tensor:
    """Positions in the store of the clips of one side, ascending, (clips,) int64 on the CPU.

    Raises `DataError` when the store does not fit the benchmark or that side has no clip.
    """
    clips = clips_of_side(store, benchmark, split)
    if not len(clips):
        rule = split_rule(store, benchmark)
        expected = sorted(rule.values(split))
        column = store.metadata[rule.column]
        raise DataError(
            f"benchmark {benchmark.name}: no {split} clip among the {len(store)} clips; its {split} side is "
            f"{rule.column} {_list(expected)}, the data have {_list(np.unique(column).tolist())}; "
            f"data.path should hold the whole data set"
        )
    return clips


def part_clips(store: PackedStore, benchmark: Benchmark, part: Part, validation: float, seed: int) -> Tensor:
    """Positions in the store of the clips of a part, ascending, (clips,) int64 on the CPU.

    validation: fraction of the training side that is held out (`feeders.sampling.held_out`), with this seed. Raises
    `DataError` like `split_clips`, and where nothing can be held out.
    """
    if not 0 <= validation < 1:
        raise DataError(f"data.validation: must be >= 0 and < 1, got {validation}")
    clips = split_clips(store, benchmark, "test" if part == "test" else "train")
    if part == "test" or not (validation or part == "validation"):
        return clips
    if not validation:
        raise DataError("data.validation: is 0, so no clips are held out for validation; set it to 0.1, say")
    subjects = store.metadata[SUBJECT][clips.numpy()] if SUBJECT in store.metadata else None
    held = held_out(store.labels[clips], subjects, validation, seed)
    if not held.any():
        raise DataError("data.validation: no class has two training clips, so that none can be held out; set it to 0")
    return clips[held if part == "validation" else ~held]


def clips_of_side(store: PackedStore, benchmark: Benchmark, split: Split) -> Tensor:
    """As `split_clips`, but a side may have no clip."""
    check_fit(store, benchmark)
    rule = split_rule(store, benchmark)
    members = {side: np.isin(store.metadata[rule.column], sorted(rule.values(side))) for side in SPLITS}
    if rule is STATED_BY_THE_DATA:
        refuse_other_protocol("data.path", benchmark, {side: int(members[side].sum()) for side in SPLITS})
    return torch.from_numpy(np.flatnonzero(members[split]))


def split_rule(store: PackedStore, benchmark: Benchmark) -> SplitRule:
    """What the store's column `side` says, where there is one; else the benchmark's rule."""
    return STATED_BY_THE_DATA if SIDE_COLUMN in store.metadata else benchmark.split


def refuse_other_protocol(place: object, benchmark: Benchmark, sizes: dict[Split, int]) -> None:
    """Raise `DataError` when data that state their sides have as many clips on each as another benchmark has."""
    for other in BENCHMARKS.values():
        if benchmark.expected_clips and sizes == other.expected_clips != benchmark.expected_clips:
            raise DataError(
                f"{place}: its {sizes['train']} training and {sizes['test']} test clips are those of {other.name}, "
                f"not of {benchmark.name}; set data.benchmark to {other.name}, or name other data"
            )


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
            f"data.path: the clips have no column {column!r} (only {', '.join(map(repr, store.metadata)) or 'none'}); "
            f"benchmark {benchmark.name} splits by it"
        )


def _list(values: list[int]) -> str:
    return ", ".join(map(str, values)) or "none"
