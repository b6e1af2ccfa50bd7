"""The packed store as one HDF5 file: opened at once, clips decoded when they are asked for, refused unless whole.

    packed          uint8 (bytes,)    all clips as `feeders.clip_codec` encodes them, one after the other, contiguous
    ends            int64 (S,)        where each clip's bytes end in `packed`
    digests         uint8 (S, 16)     of each clip's content (`clip_digest`)
    frames, persons, labels, names, metadata/<column>, class_names: see `feeders.catalogue`
    attributes      format, version, dtype, skeleton, joints, fingerprint, checksum, complete

The fingerprint vouches for content, the checksum for the columns that say where it lies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from feeders.catalogue import Catalogue
from feeders.clip_codec import clip_digest, decode_clip
from feeders.errors import DataError, reading, why

FORMAT = "packed skeleton clips"
VERSION = 2
COLUMNS = ("frames", "persons", "labels")
CLIPS_PER_TASK = 32
"""Threads take that many clips at a time."""


@dataclass(frozen=True, eq=False)
class StoreFile:
    """An opened file: its catalogue, and the encoded clips where they lie on the disk."""

    path: Path
    catalogue: Catalogue
    ends: np.ndarray
    digests: np.ndarray
    fingerprint: str
    packed: np.ndarray
    """uint8, mapped into memory."""
    starts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", np.concatenate([[0], self.ends[:-1]]))

    def decode(self, clip: int) -> np.ndarray:
        """One clip, (T, M, V, 3). Raises `DataError` with its name when its bytes were altered."""
        data = self.packed[self.starts[clip] : self.ends[clip]].data
        try:
            array = decode_clip(data, self.catalogue.shape(clip), self.catalogue.dtype)
        except ValueError as error:
            raise self._damaged_clip(clip, str(error)) from None
        if clip_digest(array) != self.digests[clip].tobytes():
            raise self._damaged_clip(clip, "its content does not match its digest")
        return array

    def decode_into(self, rows: np.ndarray, first_rows: Sequence[int], clips: Sequence[int]) -> None:
        """Write each of these clips into `rows` (R, V, 3) from its first row on, with as many threads as there are
        processors."""

        def work(start: int) -> None:
            part = slice(start, start + CLIPS_PER_TASK)
            for first, clip in zip(first_rows[part], clips[part], strict=True):
                array = self.decode(clip)
                rows[first : first + array.shape[0] * array.shape[1]] = array.reshape(-1, *array.shape[2:])

        if len(clips) <= CLIPS_PER_TASK:
            work(0)
            return
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for _ in threads.map(work, range(0, len(clips), CLIPS_PER_TASK)):
                pass  # so that an error of any of them is raised here

    def _damaged_clip(self, clip: int, reason: str) -> DataError:
        return damaged(self.path, f"clip {self.catalogue.names[clip]}: {reason}")


def open_store_file(path: Path) -> StoreFile:
    """Read all but the coordinates; `DataError` says why when it is not a whole file of this version."""
    with reading(path):
        there = path.is_file()
    if not there:
        raise DataError(f"{path}: no such file; data.path should name a packed store (.h5)")
    try:
        with h5py.File(path, "r") as file:
            _check_marks(path, file)
            return _open(path, file)
    except DataError as error:
        raise error if str(error).startswith(str(path)) else damaged(path, str(error)) from None
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno:  # the system refused, which says nothing of the content
            raise DataError(f"{path}: cannot be read ({why(error)})") from error
        raise damaged(path, why(error)) from error


def damaged(path: Path, reason: str) -> DataError:
    """The error for a file that is not a whole packed store."""
    return DataError(f"{path}: not a readable packed store ({reason}); make or copy it again")


def checksum(catalogue: Catalogue, ends: np.ndarray, fingerprint: str) -> str:
    """Hexadecimal digest of the fingerprint and of what it does not cover: sizes, places, type and joints."""
    digest = hashlib.blake2b(f"{fingerprint}{catalogue.dtype.str}{catalogue.joints}".encode(), digest_size=16)
    for column in (catalogue.frames, catalogue.persons, ends):
        digest.update(np.ascontiguousarray(column, "<i8").data)
    return digest.hexdigest()


def _open(path: Path, file: h5py.File) -> StoreFile:
    columns = {name: file[name][:].astype(np.int64) for name in COLUMNS}
    catalogue = Catalogue(
        names=_texts(file["names"]),
        **columns,
        metadata={name: column[:].astype(np.int64) for name, column in file.get("metadata", {}).items()},
        class_names=_texts(file["class_names"]),
        skeleton=text_of(file.attrs["skeleton"]),
        joints=int(file.attrs["joints"]),
        dtype=np.dtype(text_of(file.attrs["dtype"])),
    )
    ends, digests = file["ends"][:].astype(np.int64), file["digests"][:]
    fingerprint = catalogue.fingerprint(digests)
    sums = fingerprint, checksum(catalogue, ends, fingerprint)
    if sums != (text_of(file.attrs["fingerprint"]), text_of(file.attrs["checksum"])):
        raise damaged(path, "its content does not match its fingerprint")
    offset, size = file["packed"].id.get_offset(), int(ends[-1])
    if offset is None or file["packed"].shape != (size,) or offset + size > path.stat().st_size:
        raise damaged(path, "clips are missing at its end")
    packed = np.memmap(path, np.uint8, "r", offset, (size,))
    return StoreFile(path, catalogue, ends, digests, fingerprint, packed)


def _texts(dataset: h5py.Dataset) -> tuple[str, ...]:
    return tuple(text.decode() for text in dataset[:].tolist())


def text_of(attribute: bytes | str) -> str:
    """The text of an attribute; those of fixed length come as bytes."""
    return attribute.decode() if isinstance(attribute, bytes) else attribute


def _check_marks(path: Path, file: h5py.File) -> None:
    if text_of(file.attrs.get("format", "")) != FORMAT:
        raise DataError(f"{path}: an HDF5 file, but not a packed store; data.path should name one")
    if (version := file.attrs.get("version")) != VERSION:
        raise DataError(
            f"{path}: packed store of version {version}, this program reads version {VERSION}; make it again"
        )
    if not file.attrs.get("complete", False):
        raise damaged(path, "its writing was interrupted")
