"""Batches that are ready when they are asked for: on a GPU each is prepared while the one before is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch

from feeders.feeder import ClipBatch


def batches_ahead(batches: Iterator[ClipBatch], device: torch.device) -> Iterator[ClipBatch]:
    """The same batches on `device`, which copies and computes each one beside the work of its current stream.

    Whoever takes a batch gives the device its work and asks for the next one: then the next is prepared on a stream of
    its own, and handed over in such a way that the current stream waits for it, not the host. On the CPU batches come
    as they are.
    """
    if device.type != "cuda":
        yield from batches
        return
    current, beside = torch.cuda.current_stream(device), _stream_beside(device)
    beside.wait_stream(current)  # for the store and all tables
    while True:
        with torch.cuda.stream(beside):
            batch = next(batches, None)
            if batch is None:
                return
            batch = batch.to(device)
        current.wait_stream(beside)
        for tensor in batch:
            tensor.record_stream(current)
        yield batch


@cache
def _stream_beside(device: torch.device) -> torch.cuda.Stream:
    """One for all epochs: torch keeps freed memory apart for every stream."""
    return torch.cuda.Stream(device)
