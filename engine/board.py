"""The curves of a run as TensorBoard reads them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Board:
    """One event file, written at once: TensorBoard's own writer works in a thread, where a full disk ends the run.

    The files of earlier processes go away: a run that goes on draws its curves from metrics.jsonl again, so that no
    line that was dropped there remains in a curve. Raises OSError when the disk refuses, as do the methods.
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
