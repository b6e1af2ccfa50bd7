"""The packed store as one HDF5 file that any h5py script can read.

    coordinates     (R, V, 3) float32 or float64, in chunks with a checksum (fletcher32), not compressed
    offsets         (S + 1,) int64: clip i is coordinates[offsets[i] : offsets[i + 1]]
    frames, persons, labels, names, class_names, metadata/<column>: see `feeders.store.catalogue`
    digests         (S, 16) uint8: `clip_digest` of each clip
    attributes      format, version, skeleton, fingerprint, complete

Shapes: S clips, R rows (one person in one frame), V joints.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from feeders.errors import DataError, reading, why
from feeders.store.catalogue import DIGEST_SIZE, Catalogue, clip_digest, fault_of
from graph import get_skeleton

FORMAT = "packed skeleton clips"
VERSION = 3
CHUNK_ROWS = 256
"""Two or three clips: one clip is read without many others, and the file is not made of many small pieces."""


class StoreFile(AbstractContextManager["StoreFile"]):
    """A file of `StoreWriter`, open for reading: its catalogue and digests at once, coordinates when asked for.

    Raises `DataError` when it is missing, not HDF5, truncated, half-written, altered or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            there = path.is_file()
        if not there:
            raise DataError(f"{path}: no such file; data.path should name a packed store (.h5)")
        with _naming(path):
            self._file = h5py.File(path, "r")
            try:
                _check_marks(path, self._file)
                self.catalogue, self.digests = _read(self._file)
            except BaseException:
                self._file.close()
                raise

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def clip(self, index: int) -> np.ndarray:
        """Clip `index` as (T, M, V, 3)."""
        start, end = self.catalogue.offsets[index : index + 2].tolist()
        with _naming(self.path):
            rows = self._file["coordinates"][start:end]
        return rows.reshape(int(self.catalogue.frames[index]), -1, *rows.shape[1:])

    def coordinates(self) -> np.ndarray:
        """Those of all clips, (R, V, 3), in one pass over the file."""
        with _naming(self.path):
            return self._file["coordinates"][:]


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file into one `DataError` that begins with its name."""
    try:
        yield
    except DataError as error:
        raise error if str(error).startswith(str(path)) else _damaged(path, str(error)) from None
    except MemoryError:
        raise DataError(f"{path}: its clips need more memory than there is") from None
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno:  # the system refused, which says nothing about the content
            raise DataError(f"{path}: cannot be read ({why(error)})") from error
        raise _damaged(path, why(error)) from error


def is_store(path: Path) -> bool:
    """Whether a file was written as a packed store, of whatever version. Raises `OSError` when it may not be read."""
    try:
        with h5py.File(path, "r") as file:
            return _text(file.attrs.get("format", "")) == FORMAT
    except OSError as error:
        if error.errno:  # the system refused
            raise
        return False


def _check_marks(path: Path, file: h5py.File) -> None:
    if _text(file.attrs.get("format", "")) != FORMAT:
        raise DataError(f"{path}: an HDF5 file, but not a packed store; data.path should name one")
    if (version := file.attrs.get("version")) != VERSION:
        raise DataError(
            f"{path}: packed store of version {version}, this program reads version {VERSION}; make it again"
        )
    if not file.attrs.get("complete", False):
        raise _damaged(path, "its writing was interrupted")


def _read(file: h5py.File) -> tuple[Catalogue, np.ndarray]:
    """Everything but the coordinates, which must be as many as the columns say."""
    coordinates, digests = file["coordinates"], file["digests"][:]
    columns = {name: file[name][:].astype(np.int64) for name in ("frames", "persons", "labels")}
    catalogue = Catalogue(
        names=_texts(file["names"]),
        **columns,
        metadata={name: column[:].astype(np.int64) for name, column in file["metadata"].items()},
        class_names=_texts(file["class_names"]),
        skeleton=_text(file.attrs["skeleton"]),
        joints=coordinates.shape[1],
        dtype=coordinates.dtype,
    )
    fingerprint = catalogue.fingerprint(digests)
    if fingerprint != _text(file.attrs["fingerprint"]) or not np.array_equal(file["offsets"][:], catalogue.offsets):
        raise DataError("its columns do not match its fingerprint")
    if coordinates.shape != (catalogue.offsets[-1], catalogue.joints, 3):
        raise DataError(f"its coordinates have shape {coordinates.shape}, its clips need {catalogue.offsets[-1]} rows")
    return catalogue, digests


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: not a readable packed store ({reason}); make or copy it again")


def _texts(dataset: h5py.Dataset) -> tuple[str, ...]:
    return tuple(text.decode() for text in dataset[:].tolist())


def _fixed(text: str) -> np.ndarray:
    """A text of fixed length: HDF5 keeps no checksum of others."""
    return np.array(text.encode(), h5py.string_dtype("utf-8", max(len(text.encode()), 1)))


def _text(attribute: bytes | str) -> str:
    """The text of an attribute; those of fixed length come as bytes."""
    return attribute.decode() if isinstance(attribute, bytes) else attribute


class _Target(io.FileIO):
    """The file under a store that is being written; remembers in `refusal` that the disk refused it.

    HDF5 must not hear of that: it crashes the process when it cannot write what it still has in memory.
    """

    refusal: OSError | None = None

    def write(self, data: Any) -> int:
        """All of the data, or nothing once the disk has refused."""
        rest = memoryview(data)
        try:
            while self.refusal is None and len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.refusal = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """The size, whether the disk takes it or not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.refusal = error
            return size or 0

    def check(self) -> None:
        """Raise what the disk refused with."""
        if self.refusal is not None:
            raise self.refusal


class StoreWriter(AbstractContextManager["StoreWriter"]):
    """Writes a store clip by clip, in constant memory, all or nothing.

        with StoreWriter("clips.h5", skeleton="ntu", class_names=("sit", "stand")) as writer:
            writer.append("a", 0, clip, {"subject": 1})

    The clips keep their order. What is written is in a temporary file beside `path` and gets that name when the `with`
    block ends; an exception inside the block removes it and leaves an older file of that name as it was. `joints` is
    needed only for a skeleton that `graph` does not know by name.

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
        # The process id keeps apart several processes that write the same file at once; the last rename wins.
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._labels: dict[str, int] = {}
        self._sizes: list[tuple[int, int]] = []
        self._metadata: dict[str, list[int]] = {}
        self._digests: list[bytes] = []

    def __enter__(self) -> StoreWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The newer layout of HDF5 has checksums over its own structures; version 1.8 of the library reads it.
            self._target = _Target(self._temporary, "w+")
            self._file = h5py.File(self._target, "w", libver=("v108", "v110"))
            self._file.attrs["format"], self._file.attrs["version"] = _fixed(FORMAT), VERSION
            self._coordinates = self._file.create_dataset(
                "coordinates",
                shape=(0, self.joints, 3),
                maxshape=(None, self.joints, 3),
                dtype=self.dtype,
                chunks=(CHUNK_ROWS, self.joints, 3),
                fletcher32=True,  # but no compression: it saves a fifth and takes five times as long at every start
            )
        except OSError as error:
            raise self._refused(error) from error
        return self

    def append(self, name: str, label: int, clip: np.ndarray, metadata: Mapping[str, int]) -> None:
        """Add a clip (T, M, V, 3) behind those that are there.

        Raises `DataError` with its name for a wrong shape, no frame, NaN and infinity, or a name that is there already.
        """
        if reason := fault_of(clip):
            raise DataError(f"{name}: {reason}")
        if name in self._labels:
            raise DataError(f"{self.path}: clip names must differ, {name!r} is there already")
        columns = self._metadata if self._labels else {column: [] for column in metadata}
        if metadata.keys() != columns.keys():
            raise DataError(
                f"{self.path}: clip {name} has the columns {sorted(metadata)}, the clips before it {sorted(columns)}; "
                f"all clips need the same"
            )
        clip = clip.astype(self.dtype, copy=False)
        rows = self._coordinates.shape[0]
        self._coordinates.resize(rows + clip.shape[0] * clip.shape[1], axis=0)
        self._coordinates[rows:] = clip.reshape(-1, *clip.shape[2:])
        try:
            self._target.check()
        except OSError as error:
            raise self._refused(error) from error
        self._labels[name] = int(label)
        self._sizes.append(clip.shape[:2])
        self._digests.append(clip_digest(clip))
        self._metadata = columns
        for column, value in metadata.items():
            columns[column].append(int(value))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as refusal:
            raise self._refused(refusal) from refusal
        finally:
            self._file.close()
            self._target.close()
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        frames, persons = np.array(self._sizes, np.int64).reshape(-1, 2).T.copy()
        catalogue = Catalogue(
            names=tuple(self._labels),
            labels=np.array([*self._labels.values()], np.int64),
            frames=frames,
            persons=persons,
            metadata={name: np.array(column, np.int64) for name, column in self._metadata.items()},
            class_names=self.class_names,
            skeleton=self.skeleton,
            joints=self.joints,
            dtype=self.dtype,
        )
        digests = np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, DIGEST_SIZE)
        self.fingerprint = catalogue.fingerprint(digests)
        file = self._file
        file["offsets"], file["digests"] = catalogue.offsets, digests
        for name in ("frames", "persons", "labels"):
            file[name] = getattr(catalogue, name)
        # By itself the group would get the time of its making, and equal stores would be different bytes.
        group = file.create_group("metadata", track_times=False)
        for name, column in catalogue.metadata.items():
            group[name] = column
        for name in ("names", "class_names"):
            texts = [text.encode() for text in getattr(catalogue, name)]
            file.create_dataset(name, data=texts, dtype=h5py.string_dtype("utf-8", max(map(len, texts))))
        file.attrs["skeleton"], file.attrs["fingerprint"] = _fixed(self.skeleton), _fixed(self.fingerprint)
        # Last of all: a file without this mark was left by a write that did not reach its end.
        file.attrs["complete"] = True
        file.close()
        self._target.check()
        os.fsync(self._target.fileno())
        self._temporary.replace(self.path)

    def _refused(self, error: Exception) -> DataError:
        return DataError(
            f"{self.path}: cannot be written ({why(error)}); free some space there or choose another place (data.path, "
            f"or --output)"
        )
