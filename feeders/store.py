"""The packed store: every clip of a data set once, ragged, in memory.

Only frames and persons that are there are kept. All protocols of a data set read the same store, since the split is
computed from the metadata columns.

Shapes: S clips, R rows (one row = one person in one frame), V joints, T frames, M persons.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from feeders import store_file
from feeders.errors import BadClip, DataError, describe_bad_clips


@dataclass(frozen=True, eq=False)
class PackedStore:
    """All clips of a data set.

    coordinates: (R, V, 3) in metres; clip i holds `frames[i] * persons[i]` consecutive rows, frame by frame and within
    a frame person by person. float32, or float64 where the published pipeline computes in float64 (NW-UCLA).
    frames, persons, labels: (S,) int64. names: S different names. metadata: column -> (S,) int64 ("subject",
    "camera", ...). class_names: the class of each label. skeleton: its name in `graph`. fingerprint: hexadecimal
    digest of all of these, computed when not given.

    Raises `DataError` when the parts contradict each other.
    """

    coordinates: Tensor
    frames: Tensor
    persons: Tensor
    labels: Tensor
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    skeleton: str
    metadata: Mapping[str, np.ndarray]
    fingerprint: str = ""
    offsets: Tensor = field(init=False)
    """(S,) int64: the first row of each clip."""
    _frames_on_host: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = self.frames * self.persons
        object.__setattr__(self, "offsets", rows.cumsum(0) - rows)
        object.__setattr__(self, "_frames_on_host", self.frames.cpu())
        if not self.fingerprint:
            _check(self)
            object.__setattr__(self, "fingerprint", compute_fingerprint(self))

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
        bad = [BadClip(name, reason) for name, clip in zip(names, clips, strict=True) if (reason := _fault(clip))]
        if bad:
            raise DataError(f"{len(bad)} clips cannot be packed:\n{describe_bad_clips(bad)}")
        joints = Counter(clip.shape[2] for clip in clips).most_common(1)[0][0]
        odd = [BadClip(n, f"{c.shape[2]} joints") for n, c in zip(names, clips, strict=True) if c.shape[2] != joints]
        if odd:
            raise DataError(f"most clips have {joints} joints, {len(odd)} have not:\n{describe_bad_clips(odd)}")
        return cls(
            coordinates=torch.from_numpy(np.concatenate([clip.reshape(-1, joints, 3) for clip in clips])),
            frames=torch.tensor([clip.shape[0] for clip in clips]),
            persons=torch.tensor([clip.shape[1] for clip in clips]),
            labels=torch.as_tensor(np.asarray(labels, dtype=np.int64)),
            names=tuple(names),
            class_names=tuple(class_names),
            skeleton=skeleton,
            metadata={name: np.asarray(column, dtype=np.int64) for name, column in (metadata or {}).items()},
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def device(self) -> torch.device:
        """Where the coordinates lie."""
        return self.coordinates.device

    @property
    def nbytes(self) -> int:
        """Size of the coordinates in bytes."""
        return self.coordinates.nbytes

    def clip(self, index: int) -> Tensor:
        """Clip `index` as (T, M, V, 3), a view of its rows."""
        start, frames, persons = int(self.offsets[index]), int(self.frames[index]), int(self.persons[index])
        return self.coordinates[start : start + frames * persons].unflatten(0, (frames, persons))

    def longest(self, clips: Tensor) -> int:
        """Frames of the longest of these clips ((N,) int64 on the CPU); read from a copy on the host, so that a store
        on a GPU is not waited for."""
        return int(self._frames_on_host[clips].max())

    def to(self, device: torch.device | str) -> PackedStore:
        """The same store with its tensors on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("coordinates", "frames", "persons", "labels")}
        return replace(self, **moved)

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file, all or nothing: `path` never holds a half-written store.

        Raises `DataError` when it cannot be written.
        """
        columns = {"frames": self.frames, "persons": self.persons, "labels": self.labels}
        store_file.write(
            Path(path),
            store_file.Contents(
                coordinates=self.coordinates.cpu().numpy(),
                columns={name: column.cpu().numpy() for name, column in columns.items()},
                metadata=dict(self.metadata),
                names=self.names,
                class_names=self.class_names,
                skeleton=self.skeleton,
                fingerprint=self.fingerprint,
            ),
        )

    @classmethod
    def load(cls, path: str | Path) -> PackedStore:
        """Read a file that `save` wrote, onto the CPU.

        Raises `DataError` for a file that is missing, no HDF5, truncated, half-written, altered, of another version.
        """
        contents = store_file.read(Path(path))
        try:
            store = cls(
                coordinates=torch.from_numpy(contents.coordinates),
                frames=torch.from_numpy(contents.columns["frames"]),
                persons=torch.from_numpy(contents.columns["persons"]),
                labels=torch.from_numpy(contents.columns["labels"]),
                names=contents.names,
                class_names=contents.class_names,
                skeleton=contents.skeleton,
                metadata=contents.metadata,
            )
        except DataError as error:
            raise store_file.damaged(Path(path), str(error)) from None
        if store.fingerprint != contents.fingerprint:
            raise store_file.damaged(Path(path), "its content does not match its fingerprint")
        return store


def compute_fingerprint(store: PackedStore) -> str:
    """Digest of everything that makes a store what it is: equal stores have equal fingerprints, on any device."""
    digest = hashlib.blake2b(digest_size=16)
    for text in (store.skeleton, *store.class_names, "", *store.names):
        digest.update(text.encode() + b"\0")
    for tensor in (store.frames, store.persons, store.labels, store.coordinates):
        array = np.ascontiguousarray(tensor.cpu().numpy())
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    for name in sorted(store.metadata):
        digest.update(name.encode() + b"\0" + store.metadata[name].tobytes())
    return digest.hexdigest()


def _fault(clip: np.ndarray) -> str | None:
    """Why an array cannot be packed, or None."""
    if clip.ndim != 4 or clip.shape[3] != 3:
        return f"shape {clip.shape}, expected (frames, persons, joints, 3)"
    if clip.size == 0:
        return f"shape {clip.shape} holds nothing"
    if not np.isfinite(clip).all():
        return "NaN or infinite coordinates"
    return None


def _check(store: PackedStore) -> None:
    """The parts fit together; `DataError` names the first that does not."""
    clips = len(store.names)
    lengths = {name: len(getattr(store, name)) for name in ("frames", "persons", "labels")}
    lengths |= {f"metadata column {name!r}": len(column) for name, column in store.metadata.items()}
    for name, length in lengths.items():
        if length != clips:
            raise DataError(f"{name} has {length} entries for {clips} clips")
    if store.coordinates.ndim != 3 or store.coordinates.shape[2] != 3:
        raise DataError(f"coordinates have shape {tuple(store.coordinates.shape)}, expected (rows, joints, 3)")
    if store.coordinates.dtype not in (torch.float32, torch.float64):
        raise DataError(f"coordinates are {store.coordinates.dtype}, expected float32 or float64")
    if clips and (int(store.frames.min()) < 1 or int(store.persons.min()) < 1):
        raise DataError("every clip needs at least one frame and one person")
    if (rows := int((store.frames * store.persons).sum())) != len(store.coordinates):
        raise DataError(f"the clips need {rows} rows of coordinates, there are {len(store.coordinates)}")
    doubles = [name for name, count in Counter(store.names).items() if count > 1]
    if doubles:
        raise DataError(f"clip names must differ; {len(doubles)} occur more than once, the first is {doubles[0]!r}")
    if clips and not 0 <= int(store.labels.min()) <= int(store.labels.max()) < len(store.class_names):
        raise DataError(f"labels must lie in 0 .. {len(store.class_names) - 1}, one per class name")
