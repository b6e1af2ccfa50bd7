"""The progress bar of the commands of `data/`, which is also where Ctrl-C ends them."""

from __future__ import annotations

import signal
import sys
from contextlib import AbstractContextManager
from types import FrameType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30
"""Where the output is not a terminal."""


class ClipBar(AbstractContextManager["ClipBar"]):
    """A bar of clips with the remaining time, from the first call on; without a terminal, a line now and then.

    Ctrl-C waits for the next call, which raises KeyboardInterrupt: raised inside h5py's calls, it may end in a callback
    of a weak reference, where Python ignores it. A second Ctrl-C does not wait.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.bar: tqdm | None = None
        self._interrupted = False

    def __enter__(self) -> ClipBar:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` clips are done."""
        if self._interrupted:
            raise KeyboardInterrupt
        if self.bar is None:
            pause = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
            self.bar = tqdm(desc=self.stage, total=total, unit=" clips", dynamic_ncols=True, mininterval=pause)
        self.bar.update(done - self.bar.n)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        if self.bar is not None:
            self.bar.close()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            signal.default_int_handler(number, frame)
        self._interrupted = True
