"""Being asked to stop: SIGTERM and SIGINT let a run finish its step and save; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from engine.errors import StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While entered, the first signal is only noted in `asked`. Outside the main thread signals are left alone."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def error(self, where: str) -> StoppedError:
        """The error that ends a run of which any rank was asked to stop."""
        return StoppedError(self.asked or signal.SIGTERM, where)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked is not None:
            os._exit(128 + number)
        self.asked = number
