"""The prepared clips of a run that is not finished: a file that only grows, so that a killed run goes on where it was.

Each record is a header of two lengths and a checksum, a description as JSON, and the encoded clip. What a kill or a
full disk left of the last record is cut off when the file is opened again. The first record says what the file is for.
"""

from __future__ import annotations

import fcntl
import json
import struct
import sys
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from feeders.errors import DataError
from feeders.store_writer import EncodedClip

VERSION = 1
_HEADER = struct.Struct("<III")
"""Length of the description, length of the clip, CRC-32 of both."""
_LARGEST = 2**28
"""Bytes that no part of a record reaches; a damaged length is not believed."""


class Entry(NamedTuple):
    """A clip in the spool: where it is, of what content of its sources it was made, and what was noticed."""

    offset: int
    stamp: str
    notes: list[list[str]]


class Spool(AbstractContextManager["Spool"]):
    """Clips already prepared for the store `out`, in `entries` by name.

    `purpose` says what they are prepared for; a file with another purpose is begun anew, and `restarted` says so.
    Within the `with` block no other process can open it.

    Raises `DataError` when the disk refuses, or another process is at it.
    """

    def __init__(self, out: Path, purpose: Mapping[str, Any]) -> None:
        self.path = out.with_name(f"{out.name}.part")
        self.purpose = {"spool": VERSION, **purpose}
        self.entries: dict[str, Entry] = {}
        self.restarted = False

    def __enter__(self) -> Spool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise self._refused(error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise DataError(f"{self.path}: in use; another process prepares the same store, wait for it") from None
        try:
            self._end = self._read_back()
            self._file.truncate(self._end)
            if not self._end:
                self._write([_pack(self.purpose, b"")])
        except OSError as error:
            self._file.close()
            raise self._refused(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, clips: Sequence[tuple[EncodedClip, str, list[list[str]]]]) -> None:
        """Add clips, each with its stamp and notes, behind those there are."""
        records = []
        for clip, stamp, notes in clips:
            fields = clip._asdict() | {"digest": clip.digest.hex()}
            del fields["data"]
            records.append(_pack({"clip": fields, "stamp": stamp, "notes": notes}, clip.data))
        offset = self._end
        try:
            self._write(records)
        except OSError as error:
            raise self._refused(error) from error
        for (clip, stamp, notes), record in zip(clips, records, strict=True):
            self.entries[clip.name] = Entry(offset, stamp, notes)
            offset += len(record)

    def read(self, name: str) -> EncodedClip:
        """A clip that is there."""
        record = self._read_record(self.entries[name].offset)
        if record is None:
            raise DataError(f"{self.path}: damaged since it was written; run the same command again")
        description, data, _ = record
        clip = description["clip"]
        # The names of the columns once, not once per clip: a writer keeps the columns of all of them.
        metadata = {sys.intern(column): number for column, number in clip["metadata"].items()}
        return EncodedClip(**clip | {"metadata": metadata, "digest": bytes.fromhex(clip["digest"]), "data": data})

    def remove(self) -> None:
        """Delete the file."""
        with suppress(FileNotFoundError):
            self.path.unlink()

    def _read_back(self) -> int:
        """Find the whole records; returns where they end, 0 when the file has to be begun anew."""
        first = self._read_record(0)
        if first is None:
            return 0
        if first[0] != self.purpose:
            self.restarted = True
            return 0
        end = first[2]
        while record := self._read_record(end):
            description, _, following = record
            self.entries[description["clip"]["name"]] = Entry(end, description["stamp"], description["notes"])
            end = following
        return end

    def _read_record(self, offset: int) -> tuple[dict[str, Any], bytes, int] | None:
        """Description, clip and end of the record at `offset`; None unless it is whole."""
        self._file.seek(offset)
        header = self._file.read(_HEADER.size) or b""
        if len(header) < _HEADER.size:
            return None
        text_size, data_size, checksum = _HEADER.unpack(header)
        if max(text_size, data_size) > _LARGEST:
            return None
        content = self._file.read(text_size + data_size) or b""
        if len(content) < text_size + data_size or zlib.crc32(content) != checksum:
            return None
        return json.loads(content[:text_size]), content[text_size:], offset + _HEADER.size + len(content)

    def _write(self, records: Sequence[bytes]) -> None:
        content = memoryview(b"".join(records))
        while content:  # an unbuffered file may take a part
            content = content[self._file.write(content) or 0 :]
        self._end = self._file.tell()

    def _refused(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path}: cannot be written ({error.strerror or error}); make room there or name another place with "
            f"--out; what is done so far stays, and the same command goes on from there"
        )


def _pack(description: Mapping[str, Any], data: bytes) -> bytes:
    text = json.dumps(description).encode()
    return _HEADER.pack(len(text), len(data), zlib.crc32(data, zlib.crc32(text))) + text + data
