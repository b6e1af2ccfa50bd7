"""The hint that ends a message about an unknown word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` with the nearest one or two known words, whatever their case; empty when none is near."""
    by_lower_case = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(word.lower(), by_lower_case, n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(by_lower_case[name]) for name in nearest)}?)" if nearest else ""
