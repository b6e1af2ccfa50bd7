"""What a run says: to the terminal and log.txt as text, to metrics.jsonl as data, to TensorBoard as curves."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter
from tqdm.contrib.logging import logging_redirect_tqdm

from engine.files import write_atomically
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
    """The logs of one run, used as a context manager.

    Args:
        folder: the run folder.
        trained: epochs already trained; lines about later ones, left by an interrupted epoch, are dropped.
        tested: epochs already tested, likewise.
        step: steps already done of the epoch after the trained ones, likewise.
    """

    def __init__(self, folder: Path, trained: int = 0, tested: int = 0, step: int = 0) -> None:
        self.metrics_path = folder / "metrics.jsonl"
        kept = self._drop_later(trained, tested, step)
        self._metrics = self.metrics_path.open("a", encoding="utf-8")
        self._board = _new_board(folder / "tensorboard")
        for record in kept:
            self._draw(record["kind"], record.get("at", record["epoch"]), record)
        self._told_full_disk = False
        self._logger = logging.getLogger(f"csre.run.{folder}")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        text = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
        self._handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
        self._handlers.append(logging.FileHandler(folder / "log.txt", encoding="utf-8"))
        self._handlers[1].setFormatter(text)
        for handler in self._handlers:
            self._logger.addHandler(handler)
        self._redirect = logging_redirect_tqdm([self._logger])

    def __enter__(self) -> RunLog:
        self._redirect.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._redirect.__exit__(None, None, None)
        self._metrics.close()
        self._board.close()
        for handler in self._handlers:
            self._logger.removeHandler(handler)
            handler.close()

    def say(self, message: str) -> None:
        """A line of text."""
        self._logger.info(message)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """A line of data. A disk that refuses is told once and the run goes on."""
        try:
            self._metrics.write(json.dumps({"kind": kind, "at": step, **values}) + "\n")
            self._metrics.flush()
        except OSError as error:
            if not self._told_full_disk:
                self.say(f"WARNING: {self.metrics_path}: cannot be written ({error.strerror}); numbers are being lost")
            self._told_full_disk = True
        self._draw(kind, step, values)

    def _draw(self, kind: str, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{kind}/{name}", value, step)

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


def _new_board(folder: Path) -> SummaryWriter:
    """TensorBoard's files anew: they are drawn from metrics.jsonl again, so that no dropped line remains in a curve."""
    for path in folder.glob("events.out.tfevents.*"):
        path.unlink()
    return SummaryWriter(str(folder))
