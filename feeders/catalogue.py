"""What a packed store knows of its clips without their coordinates.

Shapes: S clips, V joints.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from feeders.errors import DataError


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
            raise DataError(f"labels must lie in 0 .. {len(self.class_names) - 1}, one per class name")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def nbytes(self) -> int:
        """Size of all coordinates in bytes, not encoded."""
        return int((self.frames * self.persons).sum()) * self.joints * 3 * self.dtype.itemsize

    def shape(self, clip: int) -> tuple[int, int, int, int]:
        """(T, M, V, 3) of one clip."""
        return int(self.frames[clip]), int(self.persons[clip]), self.joints, 3

    def fingerprint(self, digests: np.ndarray) -> str:
        """Hexadecimal digest of everything that makes a data set what it is.

        digests: (S, 16) uint8, of each clip's content (`clip_digest`), which include type and shape. Equal data have
        equal fingerprints, whether they come from a file, how it is encoded and where they lie.
        """
        digest = hashlib.blake2b(digest_size=16)
        texts = (self.skeleton, *self.class_names, "", *self.names)
        digest.update(b"".join(text.encode() + b"\0" for text in texts))
        digest.update(np.ascontiguousarray(self.labels, "<i8").data)
        digest.update(np.ascontiguousarray(digests).data)
        for name in sorted(self.metadata):
            digest.update(name.encode() + b"\0" + self.metadata[name].astype("<i8").tobytes())
        return digest.hexdigest()
