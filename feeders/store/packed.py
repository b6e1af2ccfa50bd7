"""The packed store in memory, that of the host or of a GPU.

All protocols of a data set read the same store, since the split is computed from the metadata columns.

Shapes: S clips, N clips of a batch, R rows (one row = one person in one frame), V joints, T frames, M persons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from feeders.errors import BadClip, DataError, counted, describe_bad_clips
from feeders.store.catalogue import DIGEST_SIZE, Catalogue, clip_digest, fault_of
from feeders.store.hdf5 import StoreFile, StoreWriter


@dataclass(frozen=True, eq=False)
class ClipRows:
    """Clips one after the other, as batched transforms read them.

    coordinates: (R, V, 3) in metres; clip i has `frames[i] * persons[i]` consecutive rows from row `offsets[i]` on,
    frame by frame and within a frame person by person. frames, persons, offsets: (S,) int64 on the same device.
    frames_on_host: the frames once more, so that a GPU need not be waited for.
    """

    coordinates: Tensor
    frames: Tensor
    persons: Tensor
    offsets: Tensor
    frames_on_host: Tensor

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
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


class PackedStore:
    """All clips of a data set.

    names: S different names. labels, frames, persons: (S,) int64 on the CPU. metadata: column -> (S,) int64 ("subject",
    "camera", ...). class_names: the class of each label. skeleton: its name in `graph`. joints: V. dtype: of the
    coordinates, float32, or float64 where the published pipeline computes in float64 (NW-UCLA). rows: the coordinates.

    Made by `from_clips`, `load` and the readers.
    """

    def __init__(self, catalogue: Catalogue, coordinates: Tensor, digests: np.ndarray | None = None) -> None:
        """coordinates: (R, V, 3) of all clips in their order. digests: (S, 16) uint8, if they are known."""
        self.catalogue = catalogue
        self.names = catalogue.names
        self.class_names = catalogue.class_names
        self.skeleton = catalogue.skeleton
        self.joints = catalogue.joints
        self.dtype = coordinates.dtype
        self.metadata: Mapping[str, np.ndarray] = catalogue.metadata
        self.labels = torch.from_numpy(catalogue.labels)
        self.frames = torch.from_numpy(catalogue.frames)
        self.persons = torch.from_numpy(catalogue.persons)
        offsets = torch.from_numpy(catalogue.offsets[:-1])
        on_host = ClipRows(coordinates, self.frames, self.persons, offsets, self.frames)
        self.rows = on_host if coordinates.device.type == "cpu" else on_host.to(coordinates.device)
        if digests is not None:
            self.digests = digests

    @classmethod
    def from_clips(
        cls,
        clips: Sequence[np.ndarray],
        labels: Sequence[int] | np.ndarray,
        names: Sequence[str],
        class_names: Sequence[str],
        skeleton: str,
        metadata: Mapping[str, Sequence[int] | np.ndarray] | None = None,
    ) -> PackedStore:
        """Pack arrays (T, M, V, 3), one per clip, T and M its own. Their common dtype (float32 or float64) is kept.

        Raises `DataError`, with the names of all bad clips, for a wrong shape, no frame, or NaN and infinity.
        """
        if not clips:
            raise DataError("a packed store needs at least one clip, got none")
        bad = [BadClip(name, reason) for name, clip in zip(names, clips, strict=True) if (reason := fault_of(clip))]
        if bad:
            raise DataError(f"{counted(len(bad), 'clip')} cannot be packed:\n{describe_bad_clips(bad)}")
        joints = Counter(clip.shape[2] for clip in clips).most_common(1)[0][0]
        odd = [BadClip(n, f"{c.shape[2]} joints") for n, c in zip(names, clips, strict=True) if c.shape[2] != joints]
        if odd:
            raise DataError(f"most clips have {joints} joints, {len(odd)} do not:\n{describe_bad_clips(odd)}")
        coordinates = np.concatenate([clip.reshape(-1, joints, 3) for clip in clips])
        catalogue = Catalogue(
            names=tuple(names),
            labels=np.array(labels, dtype=np.int64),
            frames=np.array([clip.shape[0] for clip in clips], np.int64),
            persons=np.array([clip.shape[1] for clip in clips], np.int64),
            metadata={name: np.array(column, dtype=np.int64) for name, column in (metadata or {}).items()},
            class_names=tuple(class_names),
            skeleton=skeleton,
            joints=joints,
            dtype=coordinates.dtype,
        )
        return cls(catalogue, torch.from_numpy(coordinates))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def device(self) -> torch.device:
        """Where the coordinates are."""
        return self.rows.device

    @property
    def nbytes(self) -> int:
        """Size of all coordinates in bytes."""
        return self.rows.coordinates.nbytes

    @cached_property
    def digests(self) -> np.ndarray:
        """(S, 16) uint8: digest of each clip's content, as the file says where the store comes from one."""
        return self._compute_digests()

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of everything that makes the data set what it is, the same on any device and in a file."""
        return self.catalogue.fingerprint(self.digests)

    def clip(self, index: int) -> Tensor:
        """Clip `index` as (T, M, V, 3), a view."""
        return self.rows.clip(index % len(self))

    def altered_clips(self) -> list[str]:
        """Names of the clips whose content is not what the digests in their file say; reads every coordinate."""
        differs = (self._compute_digests() != self.digests).any(axis=1)
        return [self.names[index] for index in np.flatnonzero(differs)]

    def to(self, device: torch.device | str) -> PackedStore:
        """The same store in the memory of `device`."""
        return PackedStore(self.catalogue, self.rows.coordinates.to(device), self.digests)

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file, all or nothing: `path` never has a half-written store.

        Raises `DataError` when it cannot be written.
        """
        writer = StoreWriter(
            path,
            skeleton=self.skeleton,
            class_names=self.class_names,
            dtype=self.catalogue.dtype.name,
            joints=self.joints,
        )
        with writer:
            for i, name in enumerate(self.names):
                metadata = {column: int(values[i]) for column, values in self.metadata.items()}
                writer.append(name, int(self.labels[i]), self.clip(i).cpu().numpy(), metadata)

    @classmethod
    def load(cls, path: str | Path) -> PackedStore:
        """Read a file of `save` or `StoreWriter` into the memory of the host.

        Raises `DataError` for a file that is missing, not HDF5, truncated, half-written, altered or of another version.
        """
        with StoreFile(Path(path)) as file:
            return cls(file.catalogue, torch.from_numpy(file.coordinates()), file.digests)

    def _compute_digests(self) -> np.ndarray:
        digests = b"".join(clip_digest(self.clip(index).cpu().numpy()) for index in range(len(self)))
        return np.frombuffer(digests, np.uint8).reshape(len(self), DIGEST_SIZE)
