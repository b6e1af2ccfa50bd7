"""Crop, resampling and augmentation of whole batches, one family per benchmark kind.

A family turns clips in memory into raw joints (N, 3, T, V, M), with or without augmentation. Chance comes from outside:
`train` gets one row of uniform numbers per clip and maps it to parameters, so that equal rows give equal clips.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from feeders.benchmarks import Benchmark
from feeders.choices import ORIGINS, Origin
from feeders.errors import DataError, unknown_choice
from feeders.store.packed import ClipRows
from feeders.transforms.bones import BoneScaling
from feeders.transforms.ntu import NTUTransform
from feeders.transforms.nw_ucla import NWUCLATransform
from graph import Skeleton


class ClipTransform(Protocol):
    """What the feeder asks of a family. N clips, window T, V joints, M persons."""

    num_draws: int
    """How many uniform numbers one training clip needs."""

    def train(
        self, rows: ClipRows, clips: Tensor, draws: Tensor, copied: Tensor | None = None, longest: int | None = None
    ) -> Tensor:
        """Augmented joints (N, 3, T, V, M) in the dtype of the rows and on their device.

        clips: (N,) int64 on that device or the CPU. draws: (N, num_draws) float64 in [0, 1) on that device. copied:
        (N,) bool there, clips whose absent persons are copies of the last one; None: of no clip, they are zero.
        longest: frames of the longest of these clips; None: it is looked up, for which a GPU is waited for.
        """

    def test(self, rows: ClipRows, clips: Tensor, copied: Tensor | None = None, longest: int | None = None) -> Tensor:
        """The same without chance."""


def build_transform(
    benchmark: Benchmark,
    skeleton: Skeleton,
    window: int,
    rotation: float | None = None,
    origin: Origin | None = None,
    bone_scale: float = 0.0,
    device: torch.device | str = "cpu",
) -> ClipTransform:
    """The benchmark's family for this window.

    rotation (radians) and origin: None is the benchmark's default; only the family `ntu` takes others. bone_scale: 0
    for none. The family `2d` crops and resizes as `ntu` does, and neither turns nor scales. Raises `DataError` for an
    option that is out of range or that the family does not have.
    """
    for key, value in (("data.rotation", rotation), ("data.bone_scale", bone_scale)):
        if value is not None and value < 0:
            raise DataError(f"{key}: must be >= 0, got {value}")
    if bone_scale >= 1:
        raise DataError(f"data.bone_scale: must be below 1, got {bone_scale}; a bone cannot lose all its length")
    if origin is not None and origin not in ORIGINS:
        raise unknown_choice("data.origin", origin, ORIGINS)
    scaling = BoneScaling(skeleton, bone_scale, device) if bone_scale else None
    if benchmark.transforms == "ntu":
        per_frame = (benchmark.origin if origin is None else origin) == "frame"
        return NTUTransform(
            benchmark.num_persons,
            window,
            rotation=benchmark.rotation if rotation is None else rotation,
            centre=skeleton.centre if per_frame else None,
            scaling=scaling,
        )
    for key, given in (("data.rotation", rotation is not None), ("data.origin", origin is not None)):
        if given:
            raise DataError(
                f"{key}: benchmark {benchmark.name} has the transforms {benchmark.transforms}, only ntu has this; "
                "drop it"
            )
    if benchmark.transforms == "2d":
        if scaling is not None:
            raise DataError(f"data.bone_scale: benchmark {benchmark.name} is 2-D, bones have no length there; drop it")
        return NTUTransform(benchmark.num_persons, window, rotation=0.0)
    return NWUCLATransform(skeleton, benchmark.num_persons, window, scaling)
