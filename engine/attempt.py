"""A step on trial: losses and gradients are computed, looked at, and only then may they move the weights.

Letters: N clips of this rank.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from engine.errors import NonFiniteLossError
from engine.experiment import Experiment
from engine.logs import Log
from engine.optim import autocast
from engine.step import StepLosses, generator_of, losses_of
from feeders.feeder import ClipBatch


class Attempt(NamedTuple):
    """What a step came to: its losses, labels (N,), the norm of its gradients, and the buffers as they were before."""

    losses: StepLosses
    labels: Tensor
    norm: Tensor
    buffers: list[Tensor]


def attempt(run: Experiment, batch: ClipBatch, epoch: int, step: int) -> Attempt:
    """Losses and gradients of a step; nothing but statistics of batch normalisation and banks has moved yet."""
    skipping = run.config.optim.on_non_finite == "skip"
    buffers = [buffer.clone() for buffer in run.forward.buffers()] if skipping else []
    with autocast(run.device, run.config.optim):
        generator = generator_of(run.device, run.config.seed, epoch, step)
        losses = losses_of(run.forward, run.encoder, run.csre, batch, generator)
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(losses.total).backward()
    run.scaler.unscale_(run.optimizer)
    norm = get_total_norm([parameter.grad for parameter in _parameters(run) if parameter.grad is not None])
    return Attempt(losses, batch.labels, norm, buffers)


def spoiled(run: Experiment, tried: Attempt) -> bool:
    """Whether a loss or gradient is not finite. Waits for the device: the price of never spoiling the weights.

    Gradients that overflow float16 are the scaler's ordinary business and do not count.
    """
    if run.scaler.is_enabled():
        return not torch.isfinite(tried.losses.total)
    return not torch.isfinite(tried.losses.total + tried.norm)


def update(run: Experiment, tried: Attempt, epoch: int, step: int) -> None:
    """Clip the gradients, move the weights and their average.

    Raises:
        NonFiniteLossError: float16 overflowed in too many steps in a row.
    """
    config = run.config.optim
    if config.clip_norm is not None:
        clip_grads_with_norm_(_parameters(run), config.clip_norm, tried.norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    overflowed = run.scaler.is_enabled() and not torch.isfinite(tried.norm)
    run.counters.streak = run.counters.streak + 1 if overflowed else 0
    if run.counters.streak >= config.max_skips:
        raise NonFiniteLossError(
            f"the gradients overflowed float16 in {run.counters.streak} steps in a row, up to epoch {epoch}, step "
            f"{step}; lower optim.lr (now {run.schedule.get_last_lr()[0]:g}), or use --optim.amp bf16 or off"
        )
    if run.average is not None and not overflowed:
        run.average.update_parameters(run.encoder)


def leave_out(run: Experiment, log: Log, tried: Attempt, batch: ClipBatch, epoch: int, step: int) -> None:
    """Undo a spoiled step and say so, where `optim.on_non_finite` is skip.

    Raises:
        NonFiniteLossError: it is stop, or too many steps in a row were left out.
    """
    config, counters = run.config.optim, run.counters
    blamed = run.ranks.gather(_blame(run, batch, tried))
    guilty = [name for names, _, _ in blamed for name in names] or [name for _, names, _ in blamed for name in names]
    listed = ", ".join(guilty[:8]) + (f" and {len(guilty) - 8} more" if len(guilty) > 8 else "")
    terms = next((terms for names, _, terms in blamed if names), blamed[0][2])
    what = f"the loss or its gradient is not finite in epoch {epoch}, step {step} ({terms}); clips: {listed}"
    mend = f"check these clips, lower optim.lr (now {run.schedule.get_last_lr()[0]:g}) or set optim.clip_norm"
    counters.streak += 1
    if config.on_non_finite == "stop":
        raise NonFiniteLossError(f"{what}. No update was made; {mend}")
    if counters.streak >= config.max_skips:
        raise NonFiniteLossError(f"{what}. {counters.streak} steps in a row were left out; {mend}")
    counters.skipped += 1
    run.scaler.update()  # closes the step for the scaler, which has seen its gradients
    for buffer, before in zip(run.forward.buffers(), tried.buffers, strict=True):
        buffer.copy_(before)
    log.say(f"WARNING: {what}. This step was left out; {mend}")


def _parameters(run: Experiment) -> list[torch.nn.Parameter]:
    return run.optimizer.param_groups[0]["params"]


def _blame(run: Experiment, batch: ClipBatch, tried: Attempt) -> tuple[list[str], list[str], str]:
    """Names of this rank's clips whose input is not finite, else whose loss is not; names of all; the losses."""
    bad_input = ~torch.isfinite(batch.x).flatten(1).all(dim=1)
    bad = bad_input if bad_input.any() else ~torch.isfinite(tried.losses.per_clip)
    names = [run.train_clips.name_of(int(index)) for index in batch.indices]
    terms = [f"{name} {float(value.detach()):.4g}" for name, value in tried.losses.terms.items()]
    guilty = [name for name, is_bad in zip(names, bad.tolist(), strict=True) if is_bad]
    return guilty, names, ", ".join([*terms, f"gradient norm {float(tried.norm):.4g}"])
