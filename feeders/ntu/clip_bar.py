"""The progress bar of the commands of `data/`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30
"""Where the output is not a terminal."""


class ClipBar(AbstractContextManager["ClipBar"]):
    """A bar of clips with the remaining time, from the first call on; without a terminal, a line now and then."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` clips are done."""
        if self.bar is None:
            pause = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
            self.bar = tqdm(desc=self.stage, total=total, unit=" clips", dynamic_ncols=True, mininterval=pause)
        self.bar.update(done - self.bar.n)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
