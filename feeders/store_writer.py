"""Writes a packed store clip by clip, in constant memory, all or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

import h5py
import numpy as np

from feeders import store_file
from feeders.catalogue import Catalogue
from feeders.clip_codec import DIGEST_SIZE, clip_digest, encode_clip
from feeders.errors import DataError, why
from graph import get_skeleton

BLOCK = 16 * 2**20
"""Bytes copied at a time."""


class EncodedClip(NamedTuple):
    """A clip as it goes into the file; small and picklable, so that worker processes can make it."""

    name: str
    label: int
    frames: int
    persons: int
    metadata: dict[str, int]
    digest: bytes
    data: bytes


def fault_of(clip: np.ndarray) -> str | None:
    """Why an array cannot be a clip of a store, or None."""
    if clip.ndim != 4 or clip.shape[3] != 3:
        return f"shape {clip.shape}, expected (frames, persons, joints, 3)"
    if clip.size == 0:
        return f"shape {clip.shape} holds nothing"
    if not np.isfinite(clip).all():
        return "NaN or infinite coordinates"
    return None


def encode(name: str, label: int, metadata: Mapping[str, int], clip: np.ndarray) -> EncodedClip:
    """Encode a clip (T, M, V, 3), float32 or float64.

    Raises `DataError` with its name for a wrong shape, no frame, or NaN and infinity.
    """
    if reason := fault_of(clip):
        raise DataError(f"{name}: {reason}")
    return EncodedClip(
        name, int(label), clip.shape[0], clip.shape[1], dict(metadata), clip_digest(clip), encode_clip(clip)
    )


class StoreWriter(AbstractContextManager["StoreWriter"]):
    """Appends encoded clips and, when the `with` block ends without an exception, gives the whole file its name.

        with StoreWriter("clips.h5", skeleton="ntu", class_names=("sit", "stand")) as writer:
            writer.append(encode("a", 0, {"subject": 1}, clip))

    The clips keep their order. While it writes, two temporary files lie beside `path`; an exception inside the block
    removes them and leaves an older file of that name as it was. `joints` is needed only for a skeleton that `graph`
    does not know by name.

    Raises `DataError` when the disk refuses, two clips have one name, their metadata columns differ, or there is none.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        skeleton: str,
        class_names: Sequence[str],
        dtype: str = "float32",
        joints: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.skeleton = skeleton
        self.class_names = tuple(class_names)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.joints = get_skeleton(skeleton).num_joints if joints is None else joints
        self.fingerprint = ""
        """That of the data set, once the file is complete."""
        self._clips: dict[str, EncodedClip] = {}
        self._ends: list[int] = []
        # The process id keeps apart several processes that build the same file at once; the last rename wins.
        self._bytes_path, self._file_path = (
            self.path.with_name(f".{self.path.name}.{os.getpid()}.{part}.tmp") for part in ("clips", "whole")
        )
        self._bytes: IO[bytes]

    def __enter__(self) -> StoreWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._bytes = self._bytes_path.open("w+b")
        except OSError as error:
            raise self._refused(error) from error
        return self

    def append(self, clip: EncodedClip) -> None:
        """Add a clip behind those there are."""
        if clip.name in self._clips:
            raise DataError(f"{self.path}: clip names must differ, {clip.name!r} is there already")
        first = next(iter(self._clips.values()), clip)
        if clip.metadata.keys() != first.metadata.keys():
            raise DataError(
                f"{self.path}: clip {clip.name} has the columns {sorted(clip.metadata)}, "
                f"clip {first.name} {sorted(first.metadata)}; all clips need the same"
            )
        try:
            self._bytes.write(clip.data)
        except OSError as error:
            raise self._refused(error) from error
        self._clips[clip.name] = clip._replace(data=b"")
        self._ends.append(len(clip.data) + (self._ends[-1] if self._ends else 0))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except (OSError, RuntimeError) as refusal:
            raise self._refused(refusal) from refusal
        finally:
            # A full disk refuses what is still buffered here too; by then it is of no use.
            with suppress(OSError):
                self._bytes.close()
            self._bytes_path.unlink(missing_ok=True)
            self._file_path.unlink(missing_ok=True)

    def _finish(self) -> None:
        catalogue = self._catalogue()
        ends = np.array(self._ends, np.int64)
        digests = np.frombuffer(b"".join(clip.digest for clip in self._clips.values()), np.uint8)
        digests = digests.reshape(len(catalogue), DIGEST_SIZE)
        self.fingerprint = catalogue.fingerprint(digests)
        # The newer layout of HDF5 has checksums over its own structures; version 1.8 of the library reads it.
        with h5py.File(self._file_path, "w", libver=("v108", "v110")) as file:
            _fill(file, catalogue, ends, digests)
            self._copy(file.create_dataset("packed", (int(ends[-1]),), np.uint8))
            file.attrs["fingerprint"] = _fixed(self.fingerprint)
            file.attrs["checksum"] = _fixed(store_file.checksum(catalogue, ends, self.fingerprint))
            # Last of all: a file without this mark was left by a write that did not reach its end.
            file.attrs["complete"] = True
        with self._file_path.open("rb+") as written:
            os.fsync(written.fileno())
        self._file_path.replace(self.path)

    def _catalogue(self) -> Catalogue:
        clips = self._clips.values()
        columns = next(iter(clips)).metadata if clips else {}
        return Catalogue(
            names=tuple(self._clips),
            labels=np.array([clip.label for clip in clips], np.int64),
            frames=np.array([clip.frames for clip in clips], np.int64),
            persons=np.array([clip.persons for clip in clips], np.int64),
            metadata={name: np.array([clip.metadata[name] for clip in clips], np.int64) for name in columns},
            class_names=self.class_names,
            skeleton=self.skeleton,
            joints=self.joints,
            dtype=self.dtype,
        )

    def _copy(self, packed: h5py.Dataset) -> None:
        self._bytes.seek(0)
        start = 0
        while block := self._bytes.read(BLOCK):
            packed[start : start + len(block)] = np.frombuffer(block, np.uint8)
            start += len(block)

    def _refused(self, error: Exception) -> DataError:
        return DataError(
            f"{self.path}: cannot be written ({why(error)}); make room there, or name another place (data.path, "
            f"or --out)"
        )


def _fill(file: h5py.File, catalogue: Catalogue, ends: np.ndarray, digests: np.ndarray) -> None:
    file.attrs["format"] = _fixed(store_file.FORMAT)
    file.attrs["version"] = store_file.VERSION
    file.attrs["dtype"] = _fixed(catalogue.dtype.name)
    file.attrs["skeleton"] = _fixed(catalogue.skeleton)
    file.attrs["joints"] = catalogue.joints
    for name in store_file.COLUMNS:
        file[name] = getattr(catalogue, name)
    # By itself the group would get the time of its making, and equal stores would be other bytes.
    metadata = file.create_group("metadata", track_times=False)
    for name, column in catalogue.metadata.items():
        metadata[name] = column
    for name in ("names", "class_names"):
        texts = [text.encode() for text in getattr(catalogue, name)]
        file.create_dataset(name, data=texts, dtype=h5py.string_dtype("utf-8", max(map(len, texts))))
    file["ends"] = ends
    file["digests"] = digests


def _fixed(text: str) -> np.ndarray:
    """A text of fixed length, as all in the file are: those of free length lie in a part that HDF5 keeps no checksums
    of (a wrong byte there can make it loop for ever), and are read a hundred times slower."""
    return np.array(text.encode(), dtype=h5py.string_dtype("utf-8", max(len(text.encode()), 1)))
