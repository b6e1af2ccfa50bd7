"""Gloo worlds on this machine: a function run by several ranks at once, and what each of them returned."""

from __future__ import annotations

import io
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.forking import FORKING

SECONDS = 120


def run_world(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returns on each of ``ranks`` processes of a gloo group, in rank order.

    The function is a module's; arguments and results are anything that ``torch.save`` takes.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipes = [FORKING.Pipe(duplex=False) for _ in range(ranks)]
        processes = [
            FORKING.Process(
                target=_run_rank,
                args=(rank, ranks, str(Path(folder) / "store"), ours, function, arguments),
                daemon=True,
            )
            for rank, (_, ours) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        try:
            results = [_receive(theirs, process) for (theirs, _), process in zip(pipes, processes, strict=True)]
        finally:
            for process in processes:
                process.join(5)
                process.kill()
    failed = [text for kind, text in results if kind == "error"]
    assert not failed, "\n".join(failed)
    return [value for _, value in results]


def _receive(pipe: Connection, process: BaseProcess) -> tuple[str, Any]:
    if not pipe.poll(SECONDS):
        return "error", f"{process.name} answered nothing within {SECONDS} s"
    return torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)


def _run_rank(
    rank: int, ranks: int, store: str, pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    try:
        result = ("value", function(*arguments))
    except Exception:
        result = ("error", f"rank {rank}: {traceback.format_exc()}")
    buffer = io.BytesIO()
    torch.save(result, buffer)
    pipe.send_bytes(buffer.getvalue())
    dist.destroy_process_group()
