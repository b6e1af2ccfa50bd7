"""What a run says: to the terminal and log.txt as text, to metrics.jsonl as data, to TensorBoard as curves."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tqdm.contrib.logging import logging_redirect_tqdm

from common.files import write_atomically
from engine.board import Board
from engine.errors import RunError
from engine.records import read_records


class Log(Protocol):
    """What the parts of a run tell their reader through."""

    def say(self, message: str) -> None:
        """A line of text."""

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """A line of data (`step`, `train` or `test`), with its numbers as curves over the step."""


class SilentLog:
    """The log of every rank but the first."""

    def say(self, message: str) -> None:
        """Nothing."""

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Nothing."""


class RunLog:
    """The logs of one run, used as a context manager. A disk that refuses costs lines, not the run: it is told once.

    Args:
        folder: the run folder.
        trained: epochs already trained; lines about later ones, left by an interrupted epoch, are dropped.
        tested: epochs already tested, likewise.
        step: steps already done of the epoch after the trained ones, likewise.

    Raises:
        RunError: the disk refuses from the start.
    """

    def __init__(self, folder: Path, trained: int = 0, tested: int = 0, step: int = 0) -> None:
        self.metrics_path = folder / "metrics.jsonl"
        self._told: set[str] = set()
        self._logger = logging.getLogger(f"csre.run.{folder}")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._handlers: list[logging.Handler] = []
        try:
            kept = self._drop_later(trained, tested, step)
            # Without a buffer: what could not be written is not tried again when the file is closed.
            self._metrics = self.metrics_path.open("ab", buffering=0)
            self._board = Board(folder / "tensorboard")
            self._handlers += [logging.StreamHandler(sys.stdout), _TextFile(folder / "log.txt", self._refused)]
        except OSError as error:
            raise RunError(f"{folder}: cannot be written ({error.strerror}); free some space") from None
        self._handlers[1].setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        for handler in self._handlers:
            self._logger.addHandler(handler)
        for record in kept:
            self._draw(record["kind"], record.get("at", record["epoch"]), record)
        self._redirect = logging_redirect_tqdm([self._logger])

    def __enter__(self) -> RunLog:
        self._redirect.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._redirect.__exit__(None, None, None)
        for handler in self._handlers:
            self._logger.removeHandler(handler)
        for close in (self._metrics.close, self._board.close, *(handler.close for handler in self._handlers)):
            with suppress(OSError):
                close()

    def say(self, message: str) -> None:
        """A line of text."""
        self._logger.info(message)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """A line of data (`step`, `train` or `test`), with its numbers as curves over the step."""
        try:
            self._metrics.write(json.dumps({"kind": kind, "at": step, **values}).encode() + b"\n")
        except OSError as error:
            self._refused(self.metrics_path.name, error)
        self._draw(kind, step, values)

    def _draw(self, kind: str, step: int, values: dict[str, Any]) -> None:
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, float)}
        try:
            self._board.draw(step, numbers)
        except OSError as error:
            self._refused("tensorboard", error)

    def _refused(self, name: str, error: BaseException | None) -> None:
        """Say once for each file that lines of it are being lost."""
        if name not in self._told:
            self._told.add(name)
            reason = getattr(error, "strerror", None) or error
            print(f"WARNING: {name} cannot be written ({reason}); lines of it are being lost, the run goes on")

    def _drop_later(self, trained: int, tested: int, step: int) -> list[dict[str, Any]]:
        """Rewrite metrics.jsonl without what an interrupted epoch or test left there, and return what is kept."""
        newest = {"step": (trained + 1, step), "train": (trained, 0), "test": (tested, 0)}
        kept = [
            record
            for record in read_records(self.metrics_path)
            if (record["epoch"], record.get("step", 0)) <= newest[record["kind"]]
        ]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.metrics_path, lambda file: file.write(text.encode()))
        return kept


class _TextFile(logging.FileHandler):
    """A text file whose refusal is told in a line, not with a traceback for every line."""

    def __init__(self, path: Path, refused: Callable[[str, BaseException | None], None]) -> None:
        super().__init__(path, encoding="utf-8")
        self._refused = refused

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by logging where a line could not be written."""
        self._refused(Path(self.baseFilename).name, sys.exception())
