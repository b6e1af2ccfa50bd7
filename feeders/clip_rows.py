"""Coordinates of ragged clips in memory, as batched transforms read them.

Shapes: N clips, R rows (one row = one person in one frame), V joints, T frames, M persons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from feeders.errors import DataError


@dataclass(frozen=True, eq=False)
class ClipRows:
    """Clips one after the other.

    coordinates: (R, V, 3) in metres; clip i holds `frames[i] * persons[i]` consecutive rows from row `offsets[i]` on,
    frame by frame and within a frame person by person. frames, persons, offsets: (N,) int64 on the same device.
    frames_on_host: the frames once more, so that a GPU need not be waited for.
    """

    coordinates: Tensor
    frames: Tensor
    persons: Tensor
    offsets: Tensor
    frames_on_host: Tensor

    @classmethod
    def allocate(cls, frames: np.ndarray, persons: np.ndarray, joints: int, dtype: np.dtype) -> ClipRows:
        """Room for clips of these sizes ((N,) int64 each) on the CPU; memory that is not written to costs nothing.

        Raises `DataError` when there is not enough of it.
        """
        rows = int((frames * persons).sum())
        try:
            coordinates = torch.empty((rows, joints, 3), dtype=torch.float32 if dtype.itemsize == 4 else torch.float64)
        except RuntimeError:
            size = rows * joints * 3 * dtype.itemsize / 2**30
            raise DataError(
                f"data.placement: the clips need {size:.1f} GiB of memory, more than there is; use memory_map"
            ) from None
        return cls.of(coordinates, frames, persons)

    @classmethod
    def of(cls, coordinates: Tensor, frames: np.ndarray, persons: np.ndarray) -> ClipRows:
        """Rows on the CPU ((R, V, 3)), with the sizes of the clips ((N,) int64 each) that they hold."""
        rows = frames * persons
        lengths = torch.from_numpy(frames)
        return cls(coordinates, lengths, torch.from_numpy(persons), torch.from_numpy(rows.cumsum() - rows), lengths)

    @property
    def device(self) -> torch.device:
        """Where the rows lie."""
        return self.coordinates.device

    def clip(self, index: int) -> Tensor:
        """Clip `index` as (T, M, V, 3), a view of its rows."""
        start, frames, persons = int(self.offsets[index]), int(self.frames[index]), int(self.persons[index])
        return self.coordinates[start : start + frames * persons].unflatten(0, (frames, persons))

    def longest(self, clips: Tensor) -> int:
        """Frames of the longest of these clips ((N,) int64 on the CPU)."""
        return int(self.frames_on_host[clips].max())

    def to(self, device: torch.device | str) -> ClipRows:
        """The same rows on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("coordinates", "frames", "persons", "offsets")}
        return replace(self, **moved)
