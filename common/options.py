"""How a setting is declared: default, the line that `--help` prints, and the range. Free of torch."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(
    default: Any, help: str, *, at_least: float | None = None, above: float | None = None, below: float | None = None
) -> Any:
    """A dataclass field with its default, its one-line help and its range (of each item, for a list)."""
    metadata = {"help": help, "at_least": at_least, "above": above, "below": below}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)
