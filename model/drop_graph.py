"""DropGraph, guided by attention (Cheng et al., ECCV 2020, "Decoupling GCN with DropGraph Module", ADG)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from model.draws import RandomLayer


class DropGraph(RandomLayer):
    """In training, drops joints with their neighbours, then spans of frames; (n, C, V, T) -> (n, C, V, T).

    What is more active is likelier to start a drop. With a the mean of |x| over channels and frames (joints), of the
    input of each of the two, and d the average number of a joint's neighbours, the probability that a joint (frame)
    of a skeleton is a seed is

        joints: rate / (1 + d) * a / mean(a)        frames: rate / block_size * a / mean(a)         at most 1

    A seed joint drops itself and its neighbours in all frames, a seed frame all frames that are at most
    block_size // 2 away, for all joints; each for all channels. What is left is divided by its share. The means of a
    and the shares are those of the whole batch, and count absent persons. Gradients pass through the products alone.

    Args:
        neighbours: (V, V), not zero where the second joint falls with the first; a joint falls with itself.
        block_size: frames that a seed drops, an odd number.
        rate: of dropping, in [0, 1); training changes `drop_rate` as it goes on.
    """

    neighbours: Tensor
    drop_rate: Tensor
    process_group: dist.ProcessGroup | None = None
    """The processes whose clips are one batch; None: this one alone."""

    def __init__(self, neighbours: Tensor, block_size: int, rate: float) -> None:
        super().__init__()
        joints = len(neighbours)
        self.block_size = block_size
        self.reach = 2 * (joints - 1) / joints + 1
        self.register_buffer("neighbours", (neighbours != 0).float(), persistent=False)
        self.register_buffer("drop_rate", torch.tensor(rate), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        x = x * self.joint_factors(x)[:, None, :, None]
        return x * self.frame_factors(x)[:, None, None, :]

    @torch.no_grad()
    def joint_factors(self, x: Tensor) -> Tensor:
        """0 for dropped joints, the scale for the others: (n, V)."""
        seeds = self._seeds(x, self._activity(x, (1, 3)) / self.reach, draw=0)
        return self._scaled((seeds @ self.neighbours.to(seeds.dtype)) == 0, x)

    @torch.no_grad()
    def frame_factors(self, x: Tensor) -> Tensor:
        """0 for dropped frames, the scale for the others: (n, T)."""
        seeds = self._seeds(x, self._activity(x, (1, 2)) / self.block_size, draw=1)
        size = self.block_size
        dropped = torch.max_pool1d(seeds[:, None], size, stride=1, padding=size // 2)[:, 0]
        return self._scaled(dropped == 0, x)

    def _activity(self, x: Tensor, axes: tuple[int, int]) -> Tensor:
        """Mean of |x| over two axes, divided by its mean over the batch; float32 at least."""
        activity = x.abs().mean(dim=axes, dtype=torch.promote_types(x.dtype, torch.float32))
        return activity / self._batch_mean(activity)

    def _seeds(self, x: Tensor, relative: Tensor, draw: int) -> Tensor:
        """1 where a drop starts, with probability drop_rate * relative."""
        return (self.uniform(x, relative.shape[1], draw) < self.drop_rate * relative).to(relative.dtype)

    def _scaled(self, kept: Tensor, x: Tensor) -> Tensor:
        kept = kept.to(torch.promote_types(x.dtype, torch.float32))
        # Where nothing of the batch is left, zero is what there is to scale.
        return (kept / self._batch_mean(kept).clamp_min(torch.finfo(kept.dtype).tiny)).to(x.dtype)

    def _batch_mean(self, values: Tensor) -> Tensor:
        mean = values.mean()
        if self.process_group is not None:
            dist.all_reduce(mean, group=self.process_group)
            mean = mean / dist.get_world_size(self.process_group)
        return mean

    def extra_repr(self) -> str:
        return f"block_size={self.block_size}"
