"""The processes of one run, and what stops them: signals, or a batch too large for the device. Started by torchrun they
train together, else one does all.

A rank is one process; each has a GPU of its own, or a share of the CPU. Only the first rank (0) writes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.errors import OtherRankError, RunError, StoppedError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """This process among those of its run. `host` is the group for small things that live on the host."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    host: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.host)
        return values

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether any rank raises it; the same answer on all ranks, from one small exchange."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=self.host)
        return tuple(bool(flag) for flag in raised)

    def largest(self, values: Tensor) -> Tensor:
        """Replace `values` in place by the largest of the ranks' values and return it; on GPUs no host waits for it."""
        if self.size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def mean(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Means over the ranks of scalars, in their order."""
        if self.size == 1 or not values:
            return list(values)
        stacked = torch.stack([value.double() for value in values])
        dist.all_reduce(stacked)
        return list((stacked / self.size).unbind())

    def share_buffers(self, module: nn.Module) -> None:
        """Give every rank the first one's buffers, such as the statistics of batch normalisation."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def together(self, act: Callable[[], Result]) -> Result:
        """Run `act` on every rank; where it fails on any, all stop and the first says why. It must not be collective.

        Raises:
            OtherRankError: on the ranks that have nothing to say.
            Exception: on the first rank what it met itself, else a RunError that names the rank.
        """
        failure: Exception | None = None
        try:
            result = act()
        except Exception as error:
            failure = error
        failures = self.gather(None if failure is None or self.size == 1 else f"{type(failure).__name__}: {failure}")
        if failure is not None and self.first:
            raise failure
        bad = [rank for rank, failure in enumerate(failures) if failure is not None]
        if bad and self.first:
            raise RunError(f"rank {bad[0]}: {failures[bad[0]].partition(': ')[2]}")
        if bad:
            raise OtherRankError from failure
        return result


def device_of(setting: str, local_rank: int = 0) -> torch.device:
    """The device of a rank: `auto`, `cpu` or `cuda`. Raises RunError, on all of a machine, without enough GPUs."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting == "cuda" and not available:
        raise RunError("device: cuda was asked for, but torch sees no GPU; use --device auto or cpu")
    if setting == "cpu" or not available:
        return torch.device("cpu")
    processes = max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), local_rank + 1)
    if processes > available:
        raise RunError(
            f"torchrun started {processes} processes on a machine with {available} GPUs; "
            f"use --nproc_per_node={available}, or --device cpu"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def join_processes(setting: str) -> Iterator[Processes]:
    """Meet the other processes that torchrun started, if it did; `setting` is `device` of the configuration."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    device = device_of(setting, local_rank)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    all_are_done = False
    try:
        yield Processes(rank, size, local_rank, dist.new_group(backend="gloo") if on_gpu else dist.group.WORLD)
        all_are_done = True
    except StoppedError:
        all_are_done = True
        raise
    finally:
        # After an error that this rank alone met, NCCL would wait here for the others, which are waiting for this one.
        if all_are_done:
            dist.destroy_process_group()


@contextmanager
def naming_what_is_too_large(
    option: str, clips: int, remedy: str, device: torch.device, ranks: Processes
) -> Iterator[None]:
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


class StopRequest:
    """SIGTERM and SIGINT let a run finish its step and save: the first one is only noted in `asked`, a second one ends
    the run at once. Used as a context manager; outside the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def error(self, where: str, saved: bool = True) -> StoppedError:
        """The error that ends a run of which any rank was asked to stop, where it is, and whether that is saved."""
        return StoppedError(self.asked or signal.SIGTERM, where, saved)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked is not None:
            os._exit(128 + number)
        self.asked = number
