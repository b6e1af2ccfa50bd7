"""What a run says: to the terminal and log.txt as text, to metrics.jsonl as data, to TensorBoard as curves.

TensorBoard's events go through its record writer, not through torch's SummaryWriter: that one writes in a thread, where
a full disk prints a traceback, and its one purge step cannot clear curves over steps and curves over epochs alike.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.files import write_atomically
from engine.errors import RunError

# A terminal or pipe that takes no more lines costs just these: log.txt has them, too.
logging.raiseExceptions = False

KINDS = ("step", "train", "validation", "test")
"""What a record is about: some steps, or an epoch's training, held-out clips or test clips."""
GRADIENT = "gradient_"
"""What the names of logged gradient norms begin with: `gradient_<loss>`."""


class Log(Protocol):
    """Where the parts of a run report to its reader."""

    def say(self, message: str) -> None:
        """A line of text."""

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """A line of data (of one of `KINDS`), with its numbers as curves over the step."""


class SilentLog:
    """The log of every rank but the first."""

    def say(self, message: str) -> None:
        """Nothing."""

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Nothing."""


class RunLog:
    """The logs of one run, used as a context manager. A disk that refuses costs lines, not the run; that is
    reported once.

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
        self._reported: set[str] = set()
        self._logger = logging.getLogger(f"run.{folder}")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._handlers: list[logging.Handler] = []
        try:
            kept, unreadable = self._drop_later(trained, tested, step)
            # Without a buffer: what could not be written is not tried again when the file is closed.
            self._metrics = self.metrics_path.open("ab", buffering=0)
            self._curves = _Curves(folder / "tensorboard")
            self._handlers += [logging.StreamHandler(sys.stdout), _TextFile(folder / "log.txt", self._refused)]
        except OSError as error:
            raise RunError(f"{folder}: cannot be written ({error.strerror}); free some space") from None
        self._handlers[1].setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        for handler in self._handlers:
            self._logger.addHandler(handler)
        for record in kept:
            self._draw(record["kind"], record.get("at", record["epoch"]), record)
        if unreadable:
            self.say(f"WARNING: {self.metrics_path}: {unreadable} lines cannot be read and are dropped")
        self._redirect = logging_redirect_tqdm([self._logger])

    def __enter__(self) -> RunLog:
        self._redirect.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._redirect.__exit__(None, None, None)
        for handler in self._handlers:
            self._logger.removeHandler(handler)
        for close in (self._metrics.close, self._curves.close, *(handler.close for handler in self._handlers)):
            with suppress(OSError):
                close()

    def say(self, message: str) -> None:
        """A line of text."""
        self._logger.info(message)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """A line of data (of one of `KINDS`), with its numbers as curves over the step."""
        try:
            self._metrics.write(json.dumps({"kind": kind, "at": step, **values}).encode() + b"\n")
        except OSError as error:
            self._refused(self.metrics_path.name, error)
        self._draw(kind, step, values)

    def _draw(self, kind: str, step: int, values: dict[str, Any]) -> None:
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, float)}
        try:
            self._curves.draw(step, numbers)
        except OSError as error:
            self._refused("tensorboard", error)

    def _refused(self, name: str, error: BaseException | None) -> None:
        """Say once for each file that lines of it are being lost."""
        if name not in self._reported:
            self._reported.add(name)
            reason = getattr(error, "strerror", None) or error
            with suppress(OSError):
                print(f"WARNING: {name} cannot be written ({reason}); lines of it are being lost, the run continues")

    def _drop_later(self, trained: int, tested: int, step: int) -> tuple[list[dict[str, Any]], int]:
        """Rewrite metrics.jsonl without what an interrupted epoch or test left there; what is kept, and how many lines
        cannot be read."""
        newest = {"step": (trained + 1, step), "train": (trained, 0), "validation": (tested, 0), "test": (tested, 0)}
        records = read_records(self.metrics_path)
        lines = len(self.metrics_path.read_bytes().splitlines()) if self.metrics_path.exists() else 0
        kept = [record for record in records if (record["epoch"], record.get("step", 0)) <= newest[record["kind"]]]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.metrics_path, lambda file: file.write(text.encode()))
        return kept, lines - len(records)


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a metrics.jsonl; empty without a file. Lines that are none are passed over: a crash leaves a line
    half written, and a disk may change one."""
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:  # also bytes that are not UTF-8
            continue
        if isinstance(record, dict) and _is_record(record):
            records.append(record)
    return records


def _is_record(record: dict[str, Any]) -> bool:
    """Whether kind and place of a record are ones that a run writes."""
    places = (record.get("epoch"), record.get("step", 0), record.get("at", 0))
    return record.get("kind") in KINDS and all(type(place) is int for place in places)


def progress(items: Iterable[Any], what: str, total: int | None = None, done: int = 0, shown: bool = True) -> tqdm[Any]:
    """The items, with a bar on a terminal that goes away when they are done; `done` of the total were done before.

    `shown` is true on one rank only.
    """
    columns, rows = shutil.get_terminal_size()  # some terminals say 0 x 0, which hides the bar; this says 80 x 24 then
    return tqdm(
        items,
        desc=what,
        total=total,
        initial=done,
        leave=False,
        disable=None if shown else True,  # None: where there is no terminal, so that logs in files stay readable
        ncols=columns,
        nrows=rows,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
    )


def duration(seconds: float) -> str:
    """`1 d 02:03`, `2:03:04` or `3:04`."""
    days, rest = divmod(round(seconds), 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days} d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Curves:
    """One event file of TensorBoard, written at once. Raises OSError when the disk refuses, as do the methods.

    The files of earlier processes go away: a resumed run draws its curves from metrics.jsonl again, so that no
    line that was dropped there remains in a curve.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        self._file = (folder / f"events.out.tfevents.{time.time():.0f}").open("wb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def draw(self, step: int, numbers: Mapping[str, float]) -> None:
        """A point of each curve."""
        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in numbers.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())


class _TextFile(logging.FileHandler):
    """A text file whose refusal is reported in a line, not with a traceback for every line."""

    def __init__(self, path: Path, refused: Callable[[str, BaseException | None], None]) -> None:
        super().__init__(path, encoding="utf-8")
        self._refused = refused

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by logging where a line could not be written."""
        self._refused(Path(self.baseFilename).name, sys.exception())
