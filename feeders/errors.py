"""The one exception of this package, and the words in which it speaks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.words import did_you_mean


class DataError(UserError):
    """Data that cannot be used: the message names the thing, the reason and the fix."""


class BadClip(NamedTuple):
    """A clip that cannot be used, and why."""

    name: str
    reason: str


class UnusableClip(Exception):
    """Carries the reason from where a reader finds it to its list of bad clips."""


class BadClipsError(DataError):
    """Clips of a data set that cannot be used; `bad_clips` holds all of them, and so does the message.

    Its message has one line more per clip, so that the list stays readable.
    """

    def __init__(self, place: str, total: int, bad_clips: Sequence[BadClip]) -> None:
        self.bad_clips = tuple(bad_clips)
        fix = "fix or remove them, or skip them with data.on_bad_clip skip"
        if len(bad_clips) == total:
            fix = "none is left; check that data.path names the right data"
        super().__init__(
            f"{place}: {len(bad_clips)} of {total} clips cannot be used; {fix}:\n{describe_bad_clips(bad_clips)}"
        )


def why(error: BaseException) -> str:
    """The reason that an error gives, in one line; the system's own words where it was the system that refused."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    text = " ".join(str(error).split())
    # NumPy advises to trust such a file and to run what it holds. Nobody should, for an array of numbers.
    return "it holds other things than plain numbers, or is damaged" if "allow_pickle" in text else text


def counted(number: int, thing: str) -> str:
    """Such as "1 clip" and "2 clips"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """Make what the system refuses meanwhile, such as to look into a locked folder, a `DataError` with the name."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or place}: cannot be read ({why(error)})") from error


def describe_bad_clips(bad_clips: Sequence[BadClip]) -> str:
    """One indented line per clip."""
    return "\n".join(f"  {clip.name}: {clip.reason}" for clip in bad_clips)


def unknown_choice(key: str, value: object, known: Iterable[str]) -> DataError:
    """The error for a value that is not among the known ones, with the nearest of them."""
    known = list(known)
    return DataError(f"{key}: unknown value {value!r}{did_you_mean(str(value), known)}; choose from {', '.join(known)}")
