"""What the ranks of a distributed run exchange, by torch.distributed over any backend; one process is one rank.

Shapes: W ranks, n clips on each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from csre.options import CSREError

# Rows sent at a time when rank 0 collects a bank.
_BLOCK = 2**16


class Ranks(NamedTuple):
    """The processes of a group, in rank order. Its methods but ``part`` are collective.

    Attributes:
        rank: number of this process in the group.
        world: W.
        group: None for the default group.
    """

    rank: int
    world: int
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, group: dist.ProcessGroup | None) -> Ranks:
        """Those of ``group``; None for the default group, or for this process alone where there is none.

        Raises:
            CSREError: this process is not in ``group``.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return ALONE
        rank = dist.get_rank(group)
        if rank < 0:
            raise CSREError("this process is not in the group that was given: call this in the ranks of the group only")
        return cls(rank, dist.get_world_size(group), group)

    def part(self, clips: int) -> slice:
        """Where this rank's clips are in the global batch if every rank has so many."""
        return slice(self.rank * clips, (self.rank + 1) * clips)

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors (n, ...) of all ranks one after another, (W * n, ...), without gradient."""
        if self.world == 1:
            return tensor.detach()
        everyone = tensor.new_empty(self.world, *tensor.shape)
        dist.all_gather(list(everyone.unbind()), tensor.detach().contiguous(), group=self.group)
        return everyone.flatten(0, 1)

    def exchange(self, tensor: Tensor) -> Tensor:
        """What every rank has for the clips of this one, (W, n, ...), when each gives (W * n, ...) for all clips."""
        if self.world == 1:
            return tensor[None]
        received = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, tensor.contiguous(), group=self.group)
        return received.unflatten(0, (self.world, -1))

    def collect(self, own: Tensor, lengths: Sequence[int]) -> Tensor | None:
        """On rank 0 the tensors (lengths[rank], ...) of all ranks one after another, on the host; None on the others.

        They come one by one and in blocks, so that nowhere but there more than a block is held twice.
        """
        if self.rank > 0:
            for block in own.split(_BLOCK):
                dist.send(block.contiguous(), self._global_rank(0), group=self.group)
            return None
        everyone = torch.empty(sum(lengths), *own.shape[1:], dtype=own.dtype)
        first, *others = everyone.split(list(lengths))
        first.copy_(own)
        for rank, part in enumerate(others, start=1):
            for block in part.split(_BLOCK):
                received = torch.empty_like(block, device=own.device)
                dist.recv(received, self._global_rank(rank), group=self.group)
                block.copy_(received)
        return everyone

    def _global_rank(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def check_equal(self, what: str, number: int) -> None:
        """Refuse numbers that differ between ranks.

        Raises:
            CSREError: on all ranks, with all numbers.
        """
        numbers = self.gather(torch.tensor([number])).tolist()
        if len(set(numbers)) > 1:
            raise CSREError(
                f"the ranks bring {', '.join(map(str, numbers))} {what}: give every rank equally many, "
                "from a global batch that the number of ranks divides, and drop an incomplete last batch"
            )


ALONE = Ranks(0, 1)
