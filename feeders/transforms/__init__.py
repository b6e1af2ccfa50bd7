"""Crop, resampling and augmentation of whole batches, one family per benchmark kind.

A family turns clips in memory into raw joints (N, 3, T, V, M), with or without augmentation; its constructor
takes the skeleton, the number of persons M and the window T. Chance comes from outside: `train` gets one row of
uniform numbers per clip and maps it to parameters, so that equal rows give equal clips.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from feeders.benchmarks import Benchmark
from feeders.clip_rows import ClipRows
from feeders.transforms.ntu import NTUTransform
from feeders.transforms.nw_ucla import NWUCLATransform
from graph import Skeleton


class ClipTransform(Protocol):
    """What the feeder asks of a family. N clips, window T, V joints, M persons."""

    num_draws: int
    """How many uniform numbers one training clip needs."""

    def train(self, rows: ClipRows, clips: Tensor, draws: Tensor) -> Tensor:
        """Augmented joints (N, 3, T, V, M) in the dtype of the rows and on their device.

        clips: (N,) int64 on the CPU. draws: (N, num_draws) float64 in [0, 1) on the device of the rows.
        """

    def test(self, rows: ClipRows, clips: Tensor) -> Tensor:
        """The same without chance."""


def build_transform(benchmark: Benchmark, skeleton: Skeleton, window: int) -> ClipTransform:
    """The benchmark's family for this window."""
    if benchmark.transforms == "ntu":
        return NTUTransform(benchmark.num_persons, window)
    return NWUCLATransform(skeleton, benchmark.num_persons, window)
