"""Where raw clips are: folders of `.skeleton` files, however nested, and the official .zip archives, read in place."""

from __future__ import annotations

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from feeders.errors import DataError, counted, reading, why
from feeders.ntu.names import SUFFIX, Dataset, parse_name

LARGEST_CLIP = 16 * 2**20
"""Bytes of text that no clip reaches (real ones end at 3 MB); larger files are not read, and members of archives are
not unpacked further, so that memory stays small."""

_DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, RuntimeError)
"""What `zipfile` raises for a damaged archive: wrong checksums, sizes and places that no file has."""
_ENCRYPTED = 1


class Place(NamedTuple):
    """A file, or with `member` the name of a file in an archive."""

    path: str
    member: str | None = None

    def __str__(self) -> str:
        return _printable(f"{self.path}:{self.member}" if self.member else self.path)

    def read(self) -> bytes:
        """The text.

        Raises `DataError`, without naming the place, when it cannot be read.
        """
        if self.member is not None:
            text = _read_member(self.path, self.member)
        else:
            try:
                with open(self.path, "rb") as file:  # noqa: PTH123 - Path would double the time of opening
                    text = file.read(LARGEST_CLIP + 1)
            except OSError as error:
                raise DataError(f"cannot be read ({why(error)})") from error
        if len(text) > LARGEST_CLIP:
            raise DataError(f"more than {LARGEST_CLIP:,} bytes, which no clip has")
        return text


class BadPlace(NamedTuple):
    """Something that was found and cannot be used, and why."""

    place: str
    reason: str


class Found(NamedTuple):
    """What is in the folders.

    clips: the clips of the data set by name, in the order of their names, each with every place where it is; files
    come before members of archives. missing: found, but on the missing list. foreign: the number of clips of NTU RGB+D
    that do not belong to this data set. bad: folders, archives and files that cannot be read, and files that are named
    like no clip.
    """

    clips: dict[str, tuple[Place, ...]]
    missing: tuple[str, ...]
    foreign: int
    bad: tuple[BadPlace, ...]


def find_clips(raw: Sequence[Path], dataset: Dataset) -> Found:
    """Look through folders (and the folders and archives in them) and archives.

    Raises `DataError` when one of the folders is not there or not readable, one of the files is not an archive, or no
    clip is found in all of them.
    """
    files, archives, bad = _list_files(raw)
    places = list(files)
    for archive in archives:
        try:
            places += _members(archive)
        except DataError as error:
            bad.append(BadPlace(_printable(archive), str(error)))
    clips: dict[str, tuple[Place, ...]] = {}
    missing: set[str] = set()
    foreign = 0
    for place in places:
        stem = Path(place.member or place.path).name[: -len(SUFFIX)]
        try:
            name = parse_name(stem)
        except DataError as error:
            bad.append(BadPlace(str(place), str(error)))
            continue
        if name not in dataset:
            foreign += 1
        elif stem in dataset.missing:
            missing.add(stem)
        else:
            clips[stem] = (*clips.get(stem, ()), place)
    if not clips:
        raise DataError(_nothing(raw, dataset, foreign, bad))
    return Found({name: clips[name] for name in sorted(clips)}, tuple(sorted(missing)), foreign, tuple(bad))


def _list_files(raw: Iterable[Path]) -> tuple[list[Place], list[str], list[BadPlace]]:
    """The `.skeleton` files, the paths of the archives, and what cannot be read, each once and in the order of their
    names."""
    files: dict[str, Place] = {}
    archives: set[str] = set()
    bad: dict[str, BadPlace] = {}
    for root in raw:
        with reading(root):
            if root.is_file():
                if not _is_archive(root.name) and not zipfile.is_zipfile(root):
                    raise DataError(f"{root}: neither a folder nor a .zip archive; --raw names where the raw clips are")
                archives.add(str(root.resolve()))
                continue
            if not root.is_dir():
                raise DataError(f"{root.absolute()}: not there; put the raw clips there or name their place with --raw")
            next(root.iterdir(), None)  # of all folders only this one must not be locked
        for path, entry in _walk(root):
            if isinstance(entry, BadPlace):
                bad[path] = entry
            elif _is_clip(entry.name):
                files[path] = Place(path)
            elif _is_archive(entry.name):
                archives.add(path)
    return [files[path] for path in sorted(files)], sorted(archives), [bad[path] for path in sorted(bad)]


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str] | BadPlace]]:
    """All files below a folder, except hidden ones, by absolute path; and what cannot be read: folders, and whatever
    is named like a clip or an archive and is not a file."""
    folders = [str(root.resolve())]
    visited: set[str] = set()
    while folders:
        # Links may lead to a folder twice, or round and round.
        folder = os.path.realpath(folders.pop())
        if folder in visited:
            continue
        visited.add(folder)
        try:
            with os.scandir(folder) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            yield folder, BadPlace(_printable(folder), f"cannot be read ({why(error)})")
            continue
        for entry in entries:
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError as error:
                yield entry.path, BadPlace(_printable(entry.path), f"cannot be read ({why(error)})")
                continue
            if is_folder:
                folders.append(entry.path)
            if is_file:
                yield entry.path, entry
            elif _is_clip(entry.name) or (_is_archive(entry.name) and not is_folder):
                reason = "a folder" if is_folder else "a link to nothing" if entry.is_symlink() else "not a plain file"
                yield entry.path, BadPlace(_printable(entry.path), f"{reason}; the name is that of a clip or archive")


def _members(archive: str) -> list[Place]:
    """The clips in an archive, in the order of their names."""
    try:
        with zipfile.ZipFile(archive) as file:
            names = sorted({name for name in file.namelist() if _is_clip(name)})
    except _DAMAGED as error:
        raise _refused(error, "not a whole .zip archive") from error
    if not names:
        raise DataError(f"no {SUFFIX} file in this archive")
    return [Place(archive, name) for name in names]


@cache
def open_archive(path: str) -> zipfile.ZipFile:
    """An archive, opened once in each process: listing its 57,000 clips takes a second."""
    return zipfile.ZipFile(path)


def _read_member(path: str, name: str) -> bytes:
    """A file in an archive, unpacked no further than to the size that no clip reaches."""
    try:
        archive = open_archive(path)
        info = archive.getinfo(name)
        if info.flag_bits & _ENCRYPTED:
            raise DataError("encrypted in its archive; unpack the archive and give the folder to --raw")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"packed by method {info.compress_type}, which is not read in place; unpack the archive")
        with archive.open(info) as member:
            return member.read(LARGEST_CLIP + 1)
    except _DAMAGED as error:
        raise _refused(error, "its archive is damaged there") from error


def _refused(error: Exception, damage: str) -> DataError:
    # A damaged archive may name places that no file has, of which the system says EINVAL.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return DataError(f"cannot be read ({why(error)})")
    return DataError(f"{damage} ({why(error)}); download it again")


def _printable(path: str) -> str:
    """File names may hold bytes that are no text."""
    return path.encode(errors="backslashreplace").decode()


def _is_clip(path: str) -> bool:
    """Archives made on a Mac hold a hidden companion of every file, of the same extension."""
    name = path.rpartition("/")[2]
    return name.lower().endswith(SUFFIX) and not name.startswith(".")


def _is_archive(path: str) -> bool:
    return path.lower().endswith(".zip")


def _nothing(raw: Sequence[Path], dataset: Dataset, foreign: int, bad: Sequence[BadPlace]) -> str:
    places = ", ".join(str(path) for path in raw)
    unusable = f"{counted(len(bad), 'place')} cannot be used, the first is"
    reasons = [f"{unusable} {bad[0].place}: {bad[0].reason}"] if bad else []
    if foreign:
        reasons.append(f"{counted(foreign, 'clip')} of another data set than {dataset.name}")
    return (
        f"{places}: no clip of {dataset.name} ({'; '.join(reasons) or f'no {SUFFIX} file, no .zip archive'}); "
        f"--raw should name the folder of the {SUFFIX} files or of the official archives"
    )
