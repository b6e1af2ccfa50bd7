"""The packed store: every clip of a data set once, ragged, in memory or in a file.

Only frames and persons that are there are kept. All protocols of a data set read the same store, since the split is
computed from the metadata columns.

Shapes: S clips, N clips of a batch, V joints, T frames, M persons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from feeders.catalogue import Catalogue
from feeders.clip_codec import DIGEST_SIZE, clip_digest
from feeders.clip_rows import ClipRows
from feeders.clip_source import ClipSource, DecodedOnce, DecodedPerVisit, InMemory
from feeders.errors import BadClip, DataError, counted, describe_bad_clips
from feeders.store_file import open_store_file
from feeders.store_writer import StoreWriter, encode, fault_of


class PackedStore:
    """All clips of a data set.

    names: S different names. labels, frames, persons: (S,) int64 on the CPU. metadata: column -> (S,) int64 ("subject",
    "camera", ...). class_names: the class of each label. skeleton: its name in `graph`. joints: V. dtype: of the
    coordinates, float32, or float64 where the published pipeline computes in float64 (NW-UCLA).

    Made by `from_clips`, `load` and the readers. `ready` gives the coordinates of a batch.
    """

    def __init__(self, catalogue: Catalogue, source: ClipSource, digests: np.ndarray | None = None) -> None:
        self.catalogue = catalogue
        self.names = catalogue.names
        self.class_names = catalogue.class_names
        self.skeleton = catalogue.skeleton
        self.joints = catalogue.joints
        self.dtype = torch.float32 if catalogue.dtype.itemsize == 4 else torch.float64
        self.metadata: Mapping[str, np.ndarray] = catalogue.metadata
        self.labels = torch.from_numpy(catalogue.labels)
        self.frames = torch.from_numpy(catalogue.frames)
        self.persons = torch.from_numpy(catalogue.persons)
        self._source = source
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

        Raises `DataError`, with the names of all offending clips, for a wrong shape, no frame, or NaN and infinity.
        """
        if not clips:
            raise DataError("a packed store needs at least one clip, got none")
        bad = [BadClip(name, reason) for name, clip in zip(names, clips, strict=True) if (reason := fault_of(clip))]
        if bad:
            raise DataError(f"{counted(len(bad), 'clip')} cannot be packed:\n{describe_bad_clips(bad)}")
        joints = Counter(clip.shape[2] for clip in clips).most_common(1)[0][0]
        odd = [BadClip(n, f"{c.shape[2]} joints") for n, c in zip(names, clips, strict=True) if c.shape[2] != joints]
        if odd:
            raise DataError(f"most clips have {joints} joints, {len(odd)} have not:\n{describe_bad_clips(odd)}")
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
        rows = ClipRows.of(torch.from_numpy(coordinates), catalogue.frames, catalogue.persons)
        return cls(catalogue, InMemory(rows))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def device(self) -> torch.device:
        """Where `ready` puts the coordinates."""
        return self._source.device

    @property
    def nbytes(self) -> int:
        """Size of all coordinates in bytes, not encoded."""
        return self.catalogue.nbytes

    @cached_property
    def digests(self) -> np.ndarray:
        """(S, 16) uint8: digest of each clip's content."""
        digests = b"".join(clip_digest(clip) for clip in self._arrays())
        return np.frombuffer(digests, np.uint8).reshape(len(self), DIGEST_SIZE)

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of everything that makes the data set what it is, the same on any device and in a file."""
        return self.catalogue.fingerprint(self.digests)

    def ready(self, clips: Tensor) -> tuple[ClipRows, Tensor]:
        """The coordinates of these clips ((N,) int64 on the CPU): rows in memory, and the clips' numbers among them
        ((N,) int64 on the CPU). A clip may be asked for twice.

        Raises `DataError`, with the names of file and clip, when a clip's bytes were altered.
        """
        return self._source.ready(clips)

    def clip(self, index: int) -> Tensor:
        """Clip `index` as (T, M, V, 3)."""
        rows, (number,) = self.ready(torch.tensor([index % len(self)]))
        return rows.clip(int(number))

    def to(self, device: torch.device | str) -> PackedStore:
        """The same store with all its clips in the memory of `device`, decoded if need be."""
        return PackedStore(self.catalogue, InMemory(self._source.all().to(device)), self.digests)

    def memory_mapped(self) -> PackedStore:
        """The same store, decoding a clip at every visit and keeping none, if it lies in a file; else this store."""
        if isinstance(self._source, DecodedOnce):
            return PackedStore(self.catalogue, DecodedPerVisit(self._source.file), self.digests)
        return self

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file, all or nothing: `path` never holds a half-written store.

        Raises `DataError` when it cannot be written.
        """
        writer = StoreWriter(
            path,
            skeleton=self.skeleton,
            class_names=self.class_names,
            dtype=self.catalogue.dtype.name,
            joints=self.joints,
        )
        columns = self.metadata.items()
        with writer:
            for i, (name, clip) in enumerate(zip(self.names, self._arrays(), strict=True)):
                metadata = {column: int(values[i]) for column, values in columns}
                writer.append(encode(name, int(self.labels[i]), metadata, clip))

    @classmethod
    def load(cls, path: str | Path) -> PackedStore:
        """Open a file of `save` or `StoreWriter`. Clips are decoded at their first visit and then kept on the CPU.

        Raises `DataError` for a file that is missing, no HDF5, truncated, half-written, altered, of another version;
        altered coordinates are found when their clip is decoded.
        """
        file = open_store_file(Path(path))
        return cls(file.catalogue, DecodedOnce(file), file.digests)

    def _arrays(self) -> Iterator[np.ndarray]:
        """Every clip, (T, M, V, 3)."""
        return (self.clip(index).cpu().numpy() for index in range(len(self)))
