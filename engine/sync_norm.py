"""Batch normalisation over the clips of all ranks (`optim.sync_batchnorm`): on GPUs torch's own, here for the CPU."""

from __future__ import annotations

import copyreg
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from model.drop_graph import DropGraph


class _SumOverRanks(torch.autograd.Function):
    """Every rank's output depends on every rank's input, so the gradients are summed over the ranks as well."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group  # type: ignore[attr-defined]
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class HostSyncBatchNorm(_BatchNorm):
    """What torch's SyncBatchNorm, which knows GPUs only, does; for the CPU. Parameters and buffers of a BatchNorm."""

    process_group: dist.ProcessGroup

    def _check_input_dim(self, input: Tensor) -> None:
        """Any shape (N, C, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, ...) over N of all ranks and the axes after C; in evaluation by the running statistics."""
        if not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.ndim)]
        x = input.float() if input.dtype != torch.float64 else input
        count = dist.get_world_size(self.process_group) * x.numel() // x.shape[1]
        mean = _SumOverRanks.apply(x.sum(dim=axes), self.process_group) / count
        centred = x - mean.view(shape)
        variance = _SumOverRanks.apply(centred.square().sum(dim=axes), self.process_group) / count
        self._remember(mean.detach(), variance.detach() * count / max(count - 1, 1))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Let the batch normalisations in a module, and what else it measures of a batch, act over all ranks.

    Needs an initialised process group.
    """
    # On the host a group of its own, so that its exchanges never mix with those of the gradients. On GPUs those of two
    # groups may wait for each other; there one group keeps all exchanges in order.
    group: Any = dist.new_group() if device.type == "cpu" else dist.group.WORLD
    copyreg.pickle(type(group), lambda _: "group")  # copies of a layer, as tests and averages make them, share it
    for part in module.modules():
        if isinstance(part, DropGraph):
            part.process_group = group
    if device.type != "cpu":
        nn.SyncBatchNorm.convert_sync_batchnorm(module, group)
        return
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.__class__ = HostSyncBatchNorm  # in place: whoever holds the layer keeps holding it
            part.process_group = group
