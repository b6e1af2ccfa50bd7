"""The original files of a data set, in a folder or in a .zip archive, and how a benchmark says to read them.

Letters: T frames, M persons, V joints.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from feeders.errors import DataError, why


class OriginalClip(NamedTuple):
    """A clip as its file has it: name, label, metadata columns, and (T, M, V, 3) coordinates in metres; or in their
    place the reason why it cannot be used."""

    name: str
    label: int
    metadata: Mapping[str, int]
    clip: np.ndarray | str


class Files:
    """The files below a folder or in a .zip archive, by their path in it.

    Raises `DataError` when the archive cannot be read.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._archive = None
        if not place.is_dir():
            try:
                self._archive = zipfile.ZipFile(place)
            except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
                raise DataError(f"{place}: not a readable .zip archive ({why(error)}); copy it again") from None

    def matching(self, pattern: str) -> list[PurePosixPath]:
        """Paths whose last parts match (as `PurePath.match`: `*.txt`, `joints/*.txt`), sorted."""
        return [path for path in self._paths if path.match(pattern)]

    @cached_property
    def _paths(self) -> list[PurePosixPath]:
        if self._archive is not None:
            return sorted(PurePosixPath(name) for name in self._archive.namelist())
        files = (path for path in self.place.rglob("*") if path.is_file())
        return sorted(PurePosixPath(file.relative_to(self.place).as_posix()) for file in files)

    def text(self, path: PurePosixPath) -> str:
        """The content of one, ASCII.

        Raises `ValueError` when it is damaged or no text, `DataError` when the archive is encrypted or packed by a
        method that Python does not know.
        """
        try:
            content = self._archive.read(str(path)) if self._archive is not None else (self.place / path).read_bytes()
            return content.decode("ascii")
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot be read ({why(error)})") from None
        except RuntimeError as error:
            raise DataError(
                f"{self.place}: cannot be read without unpacking ({why(error)}); unpack it and name the folder"
            ) from None

    def table(self, path: PurePosixPath, columns: int, delimiter: str | None = None) -> np.ndarray:
        """The content as numbers, (lines, columns) float64; empty lines are skipped.

        Raises `ValueError` when it is anything else, and as `text`.
        """
        rows = []
        for number, line in enumerate(self.text(path).splitlines(), start=1):
            if not line.strip():
                continue
            entries = line.split(delimiter)
            if len(entries) != columns:
                raise ValueError(f"line {number} of {path.name} has {len(entries)} entries, expected {columns} numbers")
            try:
                rows.append([float(entry) for entry in entries])
            except ValueError as error:
                raise ValueError(f"line {number} of {path.name}: {error}") from None
        if not rows:
            raise ValueError("the file is empty")
        return np.array(rows)


@dataclass(frozen=True)
class Original:
    """How the original files of a data set are known (one must match `pattern`), and read."""

    pattern: str
    read: Callable[[Files], Iterator[OriginalClip]]
