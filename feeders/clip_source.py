"""Where a packed store takes the coordinates of a batch from: memory, or a file in one of two ways."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from feeders.clip_rows import ClipRows
from feeders.store_file import StoreFile


class ClipSource(Protocol):
    """What a packed store asks of one."""

    @property
    def device(self) -> torch.device:
        """Where the rows lie."""

    def ready(self, clips: Tensor) -> tuple[ClipRows, Tensor]:
        """See `PackedStore.ready`."""

    def all(self) -> ClipRows:
        """Rows of all clips, in their order."""


class InMemory:
    """All clips, on the CPU or a GPU."""

    def __init__(self, rows: ClipRows) -> None:
        self.rows = rows

    @property
    def device(self) -> torch.device:
        """Where the rows lie."""
        return self.rows.device

    def ready(self, clips: Tensor) -> tuple[ClipRows, Tensor]:
        """The rows of all clips and the clips as they are."""
        return self.rows, clips

    def all(self) -> ClipRows:
        """The rows."""
        return self.rows


class DecodedPerVisit:
    """Clips of a file, decoded whenever they are asked for: takes no more memory than a batch."""

    device = torch.device("cpu")

    def __init__(self, file: StoreFile) -> None:
        self.file = file

    def ready(self, clips: Tensor) -> tuple[ClipRows, Tensor]:
        """Rows of these clips alone."""
        wanted, local = torch.unique(clips, return_inverse=True)
        return self._decoded(wanted.numpy()), local

    def all(self) -> ClipRows:
        """Rows of all clips, decoded."""
        return self._decoded(np.arange(len(self.file.catalogue)))

    def _decoded(self, clips: np.ndarray) -> ClipRows:
        catalogue = self.file.catalogue
        rows = ClipRows.allocate(catalogue.frames[clips], catalogue.persons[clips], catalogue.joints, catalogue.dtype)
        self.file.decode_into(rows.coordinates.numpy(), rows.offsets.tolist(), clips.tolist())
        return rows


class DecodedOnce:
    """Clips of a file, decoded at their first visit and then kept."""

    device = torch.device("cpu")

    def __init__(self, file: StoreFile) -> None:
        self.file = file
        self._decoded = np.zeros(len(file.catalogue), dtype=bool)

    @cached_property
    def _rows(self) -> ClipRows:
        catalogue = self.file.catalogue
        return ClipRows.allocate(catalogue.frames, catalogue.persons, catalogue.joints, catalogue.dtype)

    def ready(self, clips: Tensor) -> tuple[ClipRows, Tensor]:
        """The rows of all clips, of which these are decoded, and the clips as they are."""
        wanted = clips.numpy()
        missing = wanted[~self._decoded[wanted]]
        if len(missing):
            self._decode(np.unique(missing))
        return self._rows, clips

    def all(self) -> ClipRows:
        """Rows of all clips, decoded."""
        self._decode(np.flatnonzero(~self._decoded))
        return self._rows

    def _decode(self, clips: np.ndarray) -> None:
        first_rows = self._rows.offsets[torch.from_numpy(clips)].tolist()
        self.file.decode_into(self._rows.coordinates.numpy(), first_rows, clips.tolist())
        self._decoded[clips] = True
