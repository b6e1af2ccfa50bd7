"""The one exception of this package, and the wording of "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CSREError(ValueError):
    """A setting or an input that CSRE cannot work with; the message names it, the reason and the mend."""


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Refuse ``value`` if it is none of ``choices``.

    Raises:
        CSREError: names the option, the value, the nearest choice if one is near, and all choices.
    """
    known = list(choices)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CSREError(f"{option} is {value!r}: {hint}choose one of {', '.join(known)}")
