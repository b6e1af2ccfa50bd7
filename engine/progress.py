"""Progress bars: on a terminal only, so that logs in files stay readable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], what: str, total: int | None = None, done: int = 0) -> Iterable[Item]:
    """The items, with a bar that goes away when they are done; `done` of the total were done before."""
    return tqdm(items, desc=what, total=total, initial=done, leave=False, disable=None, dynamic_ncols=True)
