"""The processes of one run: started by torchrun they train together, started alone the one does everything.

A rank is one process; each has a GPU of its own, or a share of the CPU. Only the first rank (0) writes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.errors import OtherRankError, RunError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
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
        """What every rank does and any may be refused: then all stop, and the first says why.

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
        bad = [rank for rank, said in enumerate(failures) if said is not None]
        if bad and self.first:
            raise RunError(f"rank {bad[0]}: {failures[bad[0]].partition(': ')[2]}")
        if bad:
            raise OtherRankError from failure
        return result


def device_of(wanted: str, local_rank: int = 0) -> torch.device:
    """The device of a rank: `auto`, `cpu` or `cuda`. Raises RunError when there is no GPU for it."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cuda" and not available:
        raise RunError("device: cuda was asked for, but torch sees no GPU; use --device auto or cpu")
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    if local_rank >= available:
        raise RunError(
            f"torchrun started {os.environ.get('LOCAL_WORLD_SIZE')} processes on a machine with {available} GPUs; "
            f"use --nproc_per_node={available}, or --device cpu"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def join_ranks(wanted: str) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started, if it did; `wanted` is `device` of the configuration."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    _end_with_parent()
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    device = device_of(wanted, local_rank)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    try:
        yield Ranks(rank, size, local_rank, dist.new_group(backend="gloo") if on_gpu else dist.group.WORLD)
    finally:
        dist.destroy_process_group()


def _end_with_parent() -> None:
    """Ask Linux for a SIGTERM when torchrun ends without a word, so that no process trains on alone."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
