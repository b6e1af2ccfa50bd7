"""Gathers the clips that a reader finds, in little more memory than they take.

Shapes: T frames, M persons, V joints.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch

from feeders.benchmarks import Benchmark
from feeders.errors import BadClip
from feeders.keypoints import fault_of_keypoints
from feeders.split import stored_skeleton
from feeders.store.catalogue import Catalogue, fault_of
from feeders.store.packed import PackedStore
from graph import get_skeleton

GROWTH = 1.2
"""The room for coordinates grows by this factor; the system extends large arrays where they are, without a copy."""

Reading = tuple[PackedStore | None, list[BadClip]]
"""What a reader gives: the store, None when no clip can be used, and the clips that cannot be."""


class ClipCollector:
    """Takes clips of a benchmark one by one, as float32, and makes a store of them in the order of their arrival."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.skeleton = stored_skeleton(benchmark)
        self.joints = get_skeleton(benchmark.skeleton).num_joints
        self.class_names = benchmark.class_names
        self.most_persons = benchmark.num_persons
        self.is_2d = benchmark.transforms == "2d"
        self.bad: list[BadClip] = []
        self._rows = np.empty((0, self.joints, 3), np.float32)
        self._filled = 0
        self._names: list[str] = []
        self._sizes: list[tuple[int, int, int]] = []
        self._metadata: defaultdict[str, list[int]] = defaultdict(list)

    def refuse(self, name: str, reason: str) -> None:
        """Note a clip that cannot be used."""
        self.bad.append(BadClip(name, reason))

    def add(self, name: str, label: int, metadata: Mapping[str, int], clip: np.ndarray) -> None:
        """Take (T, M, V, 3) numbers; persons behind the last one that is there are dropped. A clip with no frame, no
        person, more persons than the benchmark has, NaN, numbers beyond float32, another number of joints, pixels where
        coordinates of the image belong or a label without a class is refused."""
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
            clip = clip.astype(np.float32, copy=False)
        if reason := fault_of(clip) or self._misfit(label, clip):
            self.refuse(name, reason)
            return
        present = np.flatnonzero(clip.any(axis=(0, 2, 3)))
        if not len(present):
            self.refuse(name, "every coordinate is zero")
            return
        clip = clip[:, : present[-1] + 1]
        if clip.shape[1] > self.most_persons:
            self.refuse(name, f"{clip.shape[1]} persons, the benchmark has at most {self.most_persons}")
            return
        rows = clip.shape[0] * clip.shape[1]
        if self._filled + rows > len(self._rows):
            self._rows.resize((int((self._filled + rows) * GROWTH), self.joints, 3), refcheck=False)
        self._rows[self._filled : self._filled + rows] = clip.reshape(rows, self.joints, 3)
        self._filled += rows
        self._names.append(name)
        self._sizes.append((clip.shape[0], clip.shape[1], int(label)))
        for column, value in metadata.items():
            self._metadata[column].append(int(value))

    def finish(self) -> Reading:
        """The store of all clips taken, and those refused."""
        if not self._names:
            return None, self.bad
        self._rows.resize((self._filled, self.joints, 3), refcheck=False)
        frames, persons, labels = np.array(self._sizes, np.int64).T.copy()
        catalogue = Catalogue(
            names=tuple(self._names),
            labels=labels,
            frames=frames,
            persons=persons,
            metadata={column: np.array(values, np.int64) for column, values in self._metadata.items()},
            class_names=self.class_names,
            skeleton=self.skeleton,
            joints=self.joints,
            dtype=self._rows.dtype,
        )
        return PackedStore(catalogue, torch.from_numpy(self._rows)), self.bad

    def _misfit(self, label: int, clip: np.ndarray) -> str | None:
        if clip.shape[2] != self.joints:
            return f"{clip.shape[2]} joints, the skeleton {self.skeleton} has {self.joints}"
        if self.is_2d and (reason := fault_of_keypoints(clip)):
            return reason
        if not 0 <= label < len(self.class_names):
            return f"label {label} must be in 0 .. {len(self.class_names) - 1}, one per class"
        return None
