"""What is said where a batch does not fit into the memory of the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.errors import RunError
from engine.processes import Processes


@contextmanager
def batch_of(option: str, clips: int, remedy: str, device: torch.device, ranks: Processes) -> Iterator[None]:
    """Say which setting makes the batch that is computed inside, should it be too large.

    Raises:
        RunError: the device has no memory left for it. On other ranks than the first one, whose message alone is
            printed, torch's own error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        if not ranks.first:
            raise
        reason = ". ".join(str(error).split(". ")[:2])
        raise RunError(
            f"{option}: {clips} clips at once do not fit into the memory of {device} ({reason}); {remedy}"
        ) from None
