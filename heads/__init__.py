"""Training heads: what is trained beside an encoder and removed at test.

`head` has the interface, `registry` the heads by the section of the configuration that switches them on, and a module
per head what it computes; `<head>_options` beside it has its settings and imports no torch. docs/your_own_head.md
shows how to write one.

Importing this package does not import torch: `TrainingHead` and what belongs to it are fetched on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from heads.errors import HeadError

if TYPE_CHECKING:
    from heads.head import Moment, Ranks, TrainingHead

__all__ = ["HeadError", "Moment", "Ranks", "TrainingHead"]


def __getattr__(name: str) -> Any:
    if name in ("Moment", "Ranks", "TrainingHead"):
        return getattr(importlib.import_module("heads.head"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
