"""The packed store as one HDF5 file: written all or nothing, refused unless it is whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from feeders.errors import DataError

FORMAT = "packed skeleton clips"
VERSION = 1
COLUMNS = ("frames", "persons", "labels")


@dataclass(frozen=True)
class Contents:
    """What the file holds: the fields of `PackedStore` as arrays (its docstring gives the shapes)."""

    coordinates: np.ndarray
    columns: Mapping[str, np.ndarray]
    metadata: Mapping[str, np.ndarray]
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    skeleton: str
    fingerprint: str


def write(path: Path, contents: Contents) -> None:
    """Write to a temporary file beside `path`, then rename it. `DataError` when that is not possible."""
    # The process id keeps apart several processes that build the same cache at once; the last rename wins.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with h5py.File(temporary, "w") as file:
                _fill(file, contents)
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}); data.path names another place") from error


def read(path: Path) -> Contents:
    """Read a whole file of this version; `DataError` says why when it is not one."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; data.path should name a packed store (.h5)")
    try:
        with h5py.File(path, "r") as file:
            _check_marks(path, file)
            return _collect(file)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise damaged(path, str(error)) from error


def damaged(path: Path, reason: str) -> DataError:
    """The error for a file that is not a whole packed store."""
    return DataError(f"{path}: not a readable packed store ({reason}); make or copy it again")


def _fill(file: h5py.File, contents: Contents) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["version"] = VERSION
    file.attrs["skeleton"] = contents.skeleton
    file.attrs["fingerprint"] = contents.fingerprint
    file["coordinates"] = contents.coordinates
    for name in COLUMNS:
        file[name] = contents.columns[name]
    for name, column in contents.metadata.items():
        file[f"metadata/{name}"] = column
    file["names"] = list(contents.names)
    file["class_names"] = list(contents.class_names)
    # Last of all: a file without this mark was left by a write that did not reach its end.
    file.attrs["complete"] = True


def _check_marks(path: Path, file: h5py.File) -> None:
    if file.attrs.get("format") != FORMAT:
        raise DataError(f"{path}: an HDF5 file, but not a packed store; data.path should name one")
    if (version := file.attrs.get("version")) != VERSION:
        raise DataError(
            f"{path}: packed store of version {version}, this program reads version {VERSION}; make it again"
        )
    if not file.attrs.get("complete", False):
        raise damaged(path, "its writing was interrupted")


def _collect(file: h5py.File) -> Contents:
    return Contents(
        coordinates=file["coordinates"][:],
        columns={name: file[name][:] for name in COLUMNS},
        metadata={name: column[:] for name, column in file["metadata"].items()} if "metadata" in file else {},
        names=tuple(file["names"].asstr()[:]),
        class_names=tuple(file["class_names"].asstr()[:]),
        skeleton=str(file.attrs["skeleton"]),
        fingerprint=str(file.attrs["fingerprint"]),
    )
