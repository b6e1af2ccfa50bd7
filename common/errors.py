"""The base of all errors that a user can cause; the front doors print their message as one line, no traceback."""

from __future__ import annotations

import os
from typing import ClassVar


class UserError(Exception):
    """Something that the user can fix; the message names the thing, the reason and the fix."""

    exit_code: int = 2
    """What the process ends with: 0 done, 2 refused; see README for the others."""

    silent: ClassVar[bool] = False
    """Whether another process of the run already prints the message."""


def reason_of(error: OSError) -> str:
    """Why the system refused, in its own words."""
    return os.strerror(error.errno) if error.errno else str(error)
