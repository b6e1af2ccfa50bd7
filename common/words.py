"""Words that users write: what they stand for, whatever their case, and the hint to the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from common.errors import UserError


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` with the nearest one or two known words, whatever their case; empty when none is near."""
    by_lower_case = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(word.lower(), by_lower_case, n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(by_lower_case[name]) for name in nearest)}?)" if nearest else ""


def find_word(word: str, known: Sequence[str], option: str, things: str, error: type[UserError] = UserError) -> int:
    """The position of a word among the known ones: the word itself, or else one that differs in its case alone.

    Args:
        word: what the user wrote.
        known: the words it may be.
        option: where it was written, the head of the message, such as `--class`.
        things: what the known words are, such as `classes`.
        error: the class of the error, which is raised when the word is not there.
    """
    for given, names in ((word, known), (word.lower(), [name.lower() for name in known])):
        if given in names:
            return names.index(given)
    raise error(f"{option} {word!r}: not found{did_you_mean(word, known)}; the data set has {len(known)} {things}")
