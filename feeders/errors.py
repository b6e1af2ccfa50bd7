"""The one exception of this package, and the words in which it speaks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from graph.nearest import did_you_mean


class DataError(ValueError):
    """Data that cannot be used: the message names the thing, the reason and the mend."""


class BadClip(NamedTuple):
    """A clip that cannot be used, and why."""

    name: str
    reason: str


class BadClipsError(DataError):
    """Clips of a data set that cannot be used; `bad_clips` holds all of them, and so does the message.

    Its message has one line more per clip, so that the list stays readable.
    """

    def __init__(self, place: str, total: int, bad_clips: Sequence[BadClip]) -> None:
        self.bad_clips = tuple(bad_clips)
        mend = "mend or remove them, or leave them out with data.on_bad_clip skip"
        if len(bad_clips) == total:
            mend = "none is left; check that data.path names the right data"
        super().__init__(
            f"{place}: {len(bad_clips)} of {total} clips cannot be used; {mend}:\n{describe_bad_clips(bad_clips)}"
        )


def describe_bad_clips(bad_clips: Sequence[BadClip]) -> str:
    """One indented line per clip."""
    return "\n".join(f"  {clip.name}: {clip.reason}" for clip in bad_clips)


def unknown_choice(key: str, value: object, known: Iterable[str]) -> DataError:
    """The error for a value that is not among the known ones, with the nearest of them."""
    known = list(known)
    return DataError(f"{key}: unknown value {value!r}{did_you_mean(str(value), known)}; known are {', '.join(known)}")
