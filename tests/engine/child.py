"""Runs of the front door in processes of their own, which may be killed: started by `start`, ended by `wait`.

An `Accident` happens to a process at an event of its run: the feeding of a batch (of a training step or a test) or a
write to a checkpoint.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import torch
import torch._dynamo  # the first optimiser would import it, in every process anew

import engine.checkpoint
import engine.run
import main
from feeders.feeder import Feeder
from tests.forking import FORKING


class Accident(NamedTuple):
    """Signals that a process sends itself at an event, counted from 1 among those of a kind, or among all.

    With `full`, the disk is full from then on: no file can grow.
    """

    event: int
    signals: tuple[int, ...] = (signal.SIGKILL,)
    kind: Literal["train", "test", "checkpoint"] | None = None
    full: bool = False


class Child(NamedTuple):
    """A started process and the file with what it prints."""

    process: Any
    printed: Path

    def wait(self, seconds: float = 120) -> tuple[int, str]:
        """Exit code (negative: the signal that ended it) and everything printed."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running: {self.printed.read_text()}"
        return self.process.exitcode, self.printed.read_text()


def start(words: Sequence[str], printed: Path, accident: Accident | None = None, **environment: str) -> Child:
    """Start `main.py` with these words."""
    process = FORKING.Process(target=_run, args=(list(words), printed, accident, environment))
    process.start()
    return Child(process, printed)


def start_ranks(
    count: int, words: Sequence[str], folder: Path, accidents: dict[int, Accident] | None = None
) -> list[Child]:
    """Start `main.py` as torchrun does, in `count` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start(
            words,
            folder / f"printed_{port}_{rank}.txt",
            (accidents or {}).get(rank),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **common,
        )
        for rank in range(count)
    ]


def _run(words: list[str], printed: Path, accident: Accident | None, environment: dict[str, str]) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    with printed.open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        if accident is not None:
            _prepare(accident)
        try:
            code = main.main(words)
        except BaseException:
            traceback.print_exc()
            code = 1
    os._exit(code)


def _prepare(accident: Accident) -> None:
    """Count the events of this process, and let the accident happen at its one."""
    events = 0

    def count(kind: str) -> None:
        nonlocal events
        events += accident.kind in (None, kind)
        if events == accident.event and accident.kind in (None, kind):
            print(f"accident in {kind}")
            for number in accident.signals:
                os.kill(os.getpid(), number)
            if accident.full:
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    joints = Feeder._joints

    def counted(self: Feeder, *args: Any, **kwargs: Any) -> Any:
        count(self.split)
        return joints(self, *args, **kwargs)

    Feeder._joints = counted  # type: ignore[method-assign]
    write_atomically = engine.checkpoint.write_atomically

    def counted_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
        write_atomically(path, lambda file: write(_Counted(file, count)))  # type: ignore[arg-type]

    engine.checkpoint.write_atomically = counted_write


class _Counted:
    """A file whose every write is an event, in the midst of which half of it is written."""

    def __init__(self, file: IO[bytes], count: Callable[[str], None]) -> None:
        self._file, self._count = file, count

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._file.write(view[: len(view) // 2])
        self._file.flush()
        self._count("checkpoint")
        self._file.write(view[len(view) // 2 :])
        return len(view)

    def flush(self) -> None:
        self._file.flush()
