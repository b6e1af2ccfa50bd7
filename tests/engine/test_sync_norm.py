"""Batch normalisation over ranks, and with it a whole training step: what one process computes with all clips."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from engine.config import resolve
from engine.experiment import build, connect_ranks
from engine.processes import Processes
from engine.sync_norm import HostSyncBatchNorm, synchronise_batch_norm
from engine.train import forward_backward
from heads import Moment
from tests.csre.worlds import run_world

CPU = torch.device("cpu")


def normalised(steps: int) -> dict[str, torch.Tensor]:
    """Outputs, gradients and statistics of this rank's part of some batches, or of the whole without ranks."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.BatchNorm2d(3)).double()
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    if ranks > 1:
        synchronise_batch_norm(layer, CPU)
        assert isinstance(layer[0], HostSyncBatchNorm)
    inputs, targets = torch.randn(2, steps, 6, 3, 4, 2, dtype=torch.float64)
    part = slice(rank * 6 // ranks, (rank + 1) * 6 // ranks)
    mine = inputs[:, part].clone().requires_grad_()
    outputs = torch.stack([layer(batch) for batch in mine])
    (outputs * targets[:, part]).sum().backward()
    found = {"outputs": outputs.detach(), "gradients": mine.grad, **layer.state_dict()}
    layer.eval()
    return found | {"tested": layer(inputs[0]).detach()}


def test_ranks_normalise_as_one_process_does():
    whole, ranks = normalised(3), run_world(3, normalised, 3)
    for name in ("outputs", "gradients"):
        assert torch.allclose(torch.cat([rank[name] for rank in ranks], dim=1), whole[name], atol=1e-12), name
    for name in ("0.running_mean", "0.running_var", "0.num_batches_tracked", "tested"):
        for rank in ranks:
            assert torch.allclose(rank[name], whole[name], atol=1e-12), name


def step(config: str, encoder: str) -> dict[str, torch.Tensor]:
    """Losses (mean over the ranks) and gradients of the first training step of a configuration, in double precision."""
    size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    ranks = Processes(rank, size, rank, dist.group.WORLD if size > 1 else None)
    words = ["--config", config, "--optim.sync_batchnorm", "true", "--model.name", f"tests.engine.tiny:{encoder}"]
    torch.set_default_dtype(torch.float64)
    try:
        run = build(resolve(words).config, ranks)
        connect_ranks(run)
        run.encoder.train()
        batch = run.train_clips.feed(torch.arange(16)[rank * 16 // size : (rank + 1) * 16 // size], 1)
        batch = batch._replace(x=batch.x.double(), joints=batch.joints.double())
        done = forward_backward(run, batch, Moment(1, 1, 5))
    finally:
        torch.set_default_dtype(torch.float32)
    gradients = {name: weight.grad for name, weight in run.forward.named_parameters() if weight.grad is not None}
    losses = dict(zip(done.losses, ranks.mean([loss.detach() for loss in done.losses.values()]), strict=True))
    return losses | {name.removeprefix("module."): gradient for name, gradient in gradients.items()}


@pytest.mark.parametrize("encoder", ["TinyEncoder", "DroppingEncoder"])
def test_a_step_of_two_ranks_has_the_loss_and_gradient_of_one(call, encoder):
    config = str(call.config)
    whole, ranks = step(config, encoder), run_world(2, step, config, encoder)
    assert {"cross_entropy", "spatial", "encoder.conv.weight"} <= whole.keys()
    for rank in ranks:
        assert rank.keys() == whole.keys()
        for name, value in whole.items():
            bound = 5e-7 if name == "cross_entropy" else 1e-12  # the training loop takes it in single precision
            assert (rank[name] - value).norm() <= bound * max(1.0, float(value.norm())), name
