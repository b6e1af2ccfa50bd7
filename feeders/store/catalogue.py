"""What a packed store knows of its clips without their coordinates, and what a clip may be.

Shapes: S clips, T frames, M persons, V joints.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from feeders.errors import DataError

DIGEST_SIZE = 16


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Names, sizes, labels and metadata of all clips.

    names: S different names. frames, persons, labels: (S,) int64. metadata: column -> (S,) int64 ("subject",
    "camera", ...). class_names: the class of each label. skeleton: its name in `graph`. joints: V. dtype: of the
    coordinates, float32 or float64.

    Raises `DataError` when the parts contradict each other.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    frames: np.ndarray
    persons: np.ndarray
    metadata: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]
    skeleton: str
    joints: int
    dtype: np.dtype

    def __post_init__(self) -> None:
        clips = len(self.names)
        if not clips:
            raise DataError("a packed store needs at least one clip, got none")
        lengths = {name: len(getattr(self, name)) for name in ("frames", "persons", "labels")}
        lengths |= {f"metadata column {name!r}": len(column) for name, column in self.metadata.items()}
        for name, length in lengths.items():
            if length != clips:
                raise DataError(f"{name} has {length} entries for {clips} clips")
        if self.dtype not in (np.dtype("<f4"), np.dtype("<f8")):
            raise DataError(f"coordinates are {self.dtype}, expected float32 or float64")
        if self.frames.min() < 1 or self.persons.min() < 1 or self.joints < 1:
            raise DataError("every clip needs at least one frame, one person and one joint")
        if len(set(self.names)) < clips:
            doubles = [name for name, count in Counter(self.names).items() if count > 1]
            raise DataError(f"clip names must differ; {len(doubles)} occur more than once, the first is {doubles[0]!r}")
        if not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise DataError(f"labels must be in 0 .. {len(self.class_names) - 1}, one per class name")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(S + 1,) int64: clip i has the rows offsets[i] .. offsets[i + 1] - 1 of the coordinates; one row is one
        person in one frame, frame by frame and within a frame person by person."""
        return np.concatenate([[0], np.cumsum(self.frames * self.persons)])

    def fingerprint(self, digests: np.ndarray) -> str:
        """Hexadecimal digest of everything that makes a data set what it is.

        digests: (S, 16) uint8, `clip_digest` of each clip. Equal data have equal fingerprints, whatever they were read
        from and whatever memory they are in.
        """
        digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
        texts = (self.skeleton, *self.class_names, "", *self.names)
        digest.update(b"".join(text.encode() + b"\0" for text in texts))
        for column in (self.frames, self.persons, self.labels):
            digest.update(np.ascontiguousarray(column, "<i8").data)
        digest.update(np.ascontiguousarray(digests).data)
        for name in sorted(self.metadata):
            digest.update(name.encode() + b"\0" + self.metadata[name].astype("<i8").tobytes())
        return digest.hexdigest()


def clip_digest(clip: np.ndarray) -> bytes:
    """blake2b, 16 bytes, of a clip's type (as `<f4`), its shape (as `(T, M, V, 3)`) and its bytes in that order."""
    digest = hashlib.blake2b(f"{clip.dtype.str}{clip.shape}".encode(), digest_size=DIGEST_SIZE)
    digest.update(np.ascontiguousarray(clip).data)
    return digest.digest()


def fault_of(clip: np.ndarray) -> str | None:
    """Why an array cannot be a clip of a store, or None."""
    if clip.ndim != 4 or clip.shape[3] != 3:
        return f"shape {clip.shape}, expected (frames, persons, joints, 3)"
    if clip.size == 0:
        return f"shape {clip.shape} is empty"
    if not np.isfinite(clip).all():
        return "NaN or infinite coordinates"
    return None
