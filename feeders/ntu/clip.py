"""One clip on its way from the places where its raw text lies to an encoded clip of a store."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from feeders.errors import DataError
from feeders.ntu.actors import choose_actors
from feeders.ntu.names import parse_name
from feeders.ntu.raw import parse_skeleton
from feeders.ntu.sources import Place
from feeders.store_writer import EncodedClip, encode

PUBLISHED_FRAMES = 300
"""Frames that the published arrays have room for; no usable clip has more."""


class Kind(StrEnum):
    """What became of a file that a user should hear about."""

    SKIPPED = "skipped"
    """Not in the store."""
    CONFLICT = "conflict"
    """Another file of the same name and other content is in the store."""
    DAMAGED_COPY = "damaged copy"
    """Cannot be used, but another file of the same name can, and is in the store."""
    DUPLICATE = "duplicate"
    """The same as a file that is in the store."""
    KEPT = "kept"
    """In the store, but odd."""


class Note(NamedTuple):
    """A remark about a file."""

    clip: str
    file: str
    kind: str
    reason: str


class Prepared(NamedTuple):
    """What became of a clip: encoded, or None when no place had one that can be used; and remarks."""

    clip: EncodedClip | None
    stamp: str
    notes: list[Note]


def stamp_of(places: tuple[Place, ...]) -> str:
    """Changes when the files do."""
    return " ".join(place.stamp for place in places)


def prepare_clip(name: str, places: tuple[Place, ...]) -> Prepared:
    """Parse the clip, choose its actors and encode it; the first of its places that can be used counts.

    Columns: setup, camera, subject, replication, and alone (1 where the published result has room for one actor).
    """
    encoded: EncodedClip | None = None
    used, used_text = "", b""
    notes, damaged = [], []
    for place in places:
        try:
            text = place.read()
            if encoded is not None and text == used_text:
                notes.append(Note(name, str(place), Kind.DUPLICATE, f"the same as {used}"))
                continue
            usable, remark = _encode(name, text)
        except DataError as error:
            damaged.append(Note(name, str(place), Kind.SKIPPED, str(error)))
            continue
        if encoded is not None:
            notes.append(Note(name, str(place), Kind.CONFLICT, f"differs from {used}, which was taken; remove one"))
            continue
        encoded, used, used_text = usable, str(place), text
        if remark:
            notes.append(Note(name, used, Kind.KEPT, remark))
    if encoded is not None:
        copied = f"; the copy at {used} was used"
        damaged = [note._replace(kind=Kind.DAMAGED_COPY, reason=note.reason + copied) for note in damaged]
    return Prepared(encoded, stamp_of(places), damaged + notes)


def _encode(name: str, text: bytes) -> tuple[EncodedClip, str]:
    """The clip, and what is odd about it or ""."""
    actors = choose_actors(parse_skeleton(text))
    numbers = parse_name(name)
    columns = {
        "setup": numbers.setup,
        "camera": numbers.camera,
        "subject": numbers.subject,
        "replication": numbers.replication,
        "alone": int(actors.alone),
    }
    remarks = [actors.remark] if actors.remark else []
    if (frames := len(actors.positions)) > PUBLISHED_FRAMES:
        remarks.append(f"{frames} frames, real clips have at most {PUBLISHED_FRAMES}; all are kept")
    return encode(name, numbers.action - 1, columns, actors.positions), "; ".join(remarks)
