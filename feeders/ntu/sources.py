"""Where raw clips lie: folders of `.skeleton` files, however nested, and the official .zip archives, read in place."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from feeders.errors import DataError, counted, reading, why
from feeders.ntu.names import SUFFIX, Dataset, parse_name

LARGEST_CLIP = 16 * 2**20
"""Bytes of text that no clip reaches (real ones end at 3 MB); larger files are not read, so that memory stays small."""

_LOCAL_HEADER = 30
"""Bytes before the file name in a member's own header; the lengths of name and extra field are its last four."""
_ENCRYPTED = 1


class Member(NamedTuple):
    """Where a file lies in an archive: what its directory says, so that no process need keep the whole directory."""

    name: str
    offset: int
    packed_size: int
    crc: int
    method: int
    flags: int


class Place(NamedTuple):
    """A file, or a member of an archive. `stamp` changes when the content does."""

    path: str
    size: int
    stamp: str
    member: Member | None = None

    def __str__(self) -> str:
        return _printable(f"{self.path}:{self.member.name}" if self.member else self.path)

    def read(self) -> bytes:
        """The text.

        Raises `DataError`, without naming the place, when it cannot be read.
        """
        if self.size > LARGEST_CLIP:
            raise DataError(f"{self.size:,} bytes, no clip has more than {LARGEST_CLIP:,}")
        try:
            with open(self.path, "rb") as file:  # noqa: PTH123 - Path would double the time of opening
                return _extract(file.fileno(), self.member, self.size) if self.member else file.read(LARGEST_CLIP)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror or error})") from error


class BadPlace(NamedTuple):
    """Something that was found and cannot be used, and why."""

    place: str
    reason: str


class Found(NamedTuple):
    """What lies in the folders.

    clips: the clips of the data set by name, in the order of their names, each with every place where it lies; files
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

    Raises `DataError` when one of the folders is not there or not readable, one of the files is no archive, or no clip
    is found in all of them.
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
        stem = Path(place.member.name if place.member else place.path).name[: -len(SUFFIX)]
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
                    raise DataError(f"{root}: neither a folder nor a .zip archive; --raw names where the raw clips lie")
                archives.add(str(root.resolve()))
                continue
            if not root.is_dir():
                raise DataError(f"{root.absolute()}: not there; put the raw clips there or name their place with --raw")
            next(root.iterdir(), None)  # of all folders only this one must not be locked
        for path, entry in _walk(root):
            if isinstance(entry, BadPlace):
                bad[path] = entry
            elif _is_clip(entry.name):
                status = entry.stat()
                files[path] = Place(path, status.st_size, f"{status.st_size}.{status.st_mtime_ns}")
            elif _is_archive(entry.name):
                archives.add(path)
    return [files[path] for path in sorted(files)], sorted(archives), [bad[path] for path in sorted(bad)]


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str] | BadPlace]]:
    """All files below a folder, hidden ones left out, by absolute path; and what cannot be read: folders, and whatever
    is named like a clip or an archive and is no file."""
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
                reason = "a folder" if is_folder else "a link to nothing" if entry.is_symlink() else "no plain file"
                yield entry.path, BadPlace(_printable(entry.path), f"{reason}; the name is that of a clip or archive")


def _members(archive: str) -> list[Place]:
    """The clips in an archive, in the order of their names."""
    try:
        with zipfile.ZipFile(archive) as file:
            infos = [info for info in file.infolist() if _is_clip(info.filename)]
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # a damaged archive may name places that no file has
            raise DataError(f"cannot be read ({why(error)})") from error
        raise DataError(f"not a whole .zip archive ({why(error)}); download it again") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"not a whole .zip archive ({error}); download it again") from error
    if not infos:
        raise DataError(f"no {SUFFIX} file in this archive")
    infos.sort(key=lambda info: info.filename)
    return [
        Place(
            archive,
            info.file_size,
            f"{info.file_size}.{info.CRC:08x}",
            Member(
                info.filename,
                info.header_offset,
                info.compress_size,
                info.CRC,
                info.compress_type,
                info.flag_bits,
            ),
        )
        for info in infos
    ]


def _printable(path: str) -> str:
    """File names may hold bytes that are no text."""
    return path.encode(errors="backslashreplace").decode()


def _is_clip(path: str) -> bool:
    """Archives made on a Mac hold a hidden companion of every file, of the same extension."""
    name = path.rpartition("/")[2]
    return name.lower().endswith(SUFFIX) and not name.startswith(".")


def _is_archive(path: str) -> bool:
    return path.lower().endswith(".zip")


def _extract(descriptor: int, member: Member, size: int) -> bytes:
    if member.flags & _ENCRYPTED:
        raise DataError("encrypted in its archive; unpack the archive and give the folder to --raw")
    if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"packed by method {member.method}, which is not read in place; unpack the archive")
    if member.packed_size > LARGEST_CLIP:
        raise DataError(f"{member.packed_size:,} bytes, no clip has more than {LARGEST_CLIP:,}")
    header = os.pread(descriptor, _LOCAL_HEADER, member.offset)
    if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\3\4"):
        raise DataError("its archive is damaged there; download it again")
    skip = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    packed = os.pread(descriptor, member.packed_size, member.offset + _LOCAL_HEADER + skip)
    try:
        text = packed
        if member.method == zipfile.ZIP_DEFLATED:
            # One byte more than there should be shows that there is too much, without unpacking all of it.
            text = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    except zlib.error as error:
        raise DataError(f"its archive is damaged there ({error}); download it again") from error
    if len(text) != size or zlib.crc32(text) != member.crc:
        raise DataError("its archive is damaged there (wrong checksum); download it again")
    return text


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
