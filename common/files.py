"""Writing files so that a crash leaves the old one or the new one, never half of one. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from common.errors import UserError, reason_of

ASIDE = ".old-"
"""What stands in the name of a run folder that was set aside."""


class WriteError(UserError):
    """The disk refuses a file; an older file of that name is still there."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a temporary name, flush it to the disk, then give it its name.

    Raises:
        WriteError: the disk refuses; the temporary file is removed and an older file of that name stays as it was.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise WriteError(
            f"{path}: cannot be written ({reason_of(error)}); free some space or choose another place"
        ) from None


def user_path(text: str | Path) -> Path:
    """A path as users write it, with `~` and `~name` spelled out. Raises UserError for a home that is not there."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: no such home directory; write the path in full") from None
