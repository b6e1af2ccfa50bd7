"""The original files of a data set, in a folder or in a .zip archive, and how a benchmark says to read them.

Letters: T frames, M persons, V joints.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
            except (OSError, zipfile.BadZipFile) as error:
                raise DataError(f"{place}: not a readable .zip archive ({why(error)}); copy it again") from None

    def matching(self, pattern: str) -> list[PurePosixPath]:
        """Paths whose last parts match (as `PurePath.match`: `*.txt`, `joints/*.txt`), sorted."""
        if self._archive is not None:
            paths = (PurePosixPath(name) for name in self._archive.namelist())
        else:
            files = (path for path in self.place.rglob("*") if path.is_file())
            paths = (PurePosixPath(file.relative_to(self.place).as_posix()) for file in files)
        return sorted(path for path in paths if path.match(pattern))

    def text(self, path: PurePosixPath) -> str:
        """The content of one, ASCII. Raises `ValueError` when it is damaged or no text."""
        try:
            content = self._archive.read(str(path)) if self._archive is not None else (self.place / path).read_bytes()
            return content.decode("ascii")
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, UnicodeDecodeError) as error:
            raise ValueError(f"cannot be read ({why(error)})") from None

    def table(self, path: PurePosixPath, columns: int, delimiter: str | None = None) -> np.ndarray:
        """The content as numbers, (lines, columns) float64. Raises `ValueError` when it is anything else."""
        text = self.text(path)
        if not text.strip():
            raise ValueError("the file is empty")
        numbers = np.loadtxt(io.StringIO(text), delimiter=delimiter, ndmin=2)
        if numbers.shape[1] != columns:
            raise ValueError(f"{numbers.shape[1]} numbers a line, expected {columns}")
        return numbers


@dataclass(frozen=True)
class Original:
    """How the original files of a data set are known (one must match `pattern`), and read."""

    pattern: str
    read: Callable[[Files], Iterator[OriginalClip]]
