"""Optimiser, learning-rate schedule and weight average of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from engine.schema import OptimConfig


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimConfig, decay_factors: Mapping[nn.Parameter, float] | None = None
) -> Optimizer:
    """SGD with or without Nesterov momentum, Adam or AdamW.

    Weight decay acts on every parameter, times the parameter's factor where `decay_factors` has one.

    Fused: one kernel changes all weights, or none where the optimiser's `found_inf`, a float scalar on the device, is
    1.
    """
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_factor.setdefault((decay_factors or {}).get(parameter, 1.0), []).append(parameter)
    groups = [{"params": group, "weight_decay": factor * config.weight_decay} for factor, group in by_factor.items()]
    if config.name == "sgd":
        sgd = SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=True,
        )
        if config.momentum:
            # With zeros the first update is the one that torch makes without them. Without, it would leave them
            # unwritten where that update is not made.
            for weight in (weight for group in sgd.param_groups for weight in group["params"]):
                sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        return sgd
    adam = Adam if config.name == "adam" else AdamW
    return adam(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: OptimConfig, done: float) -> float:
    """The rate after so many epochs: linear warm-up, steps down at the milestones, steady decay, cosine.

    Only the cosine moves within an epoch, from step to step. It begins after the warm-up.
    """
    epoch = int(done)
    warm_up = min((epoch + 1) / config.warmup_epochs, 1.0) if config.warmup_epochs else 1.0
    factor = warm_up * config.gamma ** sum(epoch >= step for step in config.milestones) * config.decay**epoch
    if config.cosine is not None and done > config.warmup_epochs:
        progress = (done - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
        factor *= config.cosine + (1 - config.cosine) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * factor


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Use that rate from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class WeightAverage(AveragedModel):
    """Exponential moving average of an encoder's weights and batch-norm statistics; the first update copies them."""

    def __init__(self, encoder: nn.Module, decay: float) -> None:
        super().__init__(encoder, device=next(encoder.parameters()).device, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def follow(self, encoder: nn.Module, counts: Tensor) -> None:
        """An update where `counts`, a bool scalar on the device, is true; torch's own would wait to know it."""
        share = torch.where(self.n_averaged == 0, 1.0, 1 - self.decay)
        ours, theirs = ([*module.parameters(), *module.buffers()] for module in (self.module, encoder))
        for own, other in zip(ours, theirs, strict=True):
            # Integers are counts and indices: an average would be cut to the one below.
            moved = own.lerp(other, share.to(own.dtype)) if own.is_floating_point() else other
            own.copy_(torch.where(counts, moved, own))
        self.n_averaged += counts


def build_average(encoder: nn.Module, config: OptimConfig) -> WeightAverage | None:
    """The moving average, if configured."""
    return None if config.ema_decay is None else WeightAverage(encoder, config.ema_decay)


def precision(device: torch.device, config: OptimConfig) -> Literal["off", "bf16", "fp16"]:
    """The mixed precision of a run on a device: as configured, or with `auto` that of the recipe on CUDA."""
    if config.amp == "auto":
        return config.published_amp if device.type == "cuda" else "off"
    return config.amp


def remarks_on_precision(device: torch.device, config: OptimConfig) -> list[str]:
    """A warning where bfloat16 is asked for on a processor that most likely computes it in float32, piece by piece."""
    if device.type != "cpu" or precision(device, config) != "bf16" or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return []
    return [
        "WARNING: optim.amp is bf16, which a processor without AVX-512 emulates: a step takes several times as long as "
        "in float32 (CTR-GCN's: 6 to 8 times); use --optim.amp off"
    ]


def build_scaler(device: torch.device, config: OptimConfig) -> torch.amp.GradScaler:
    """The gradient scaler that float16 needs; for the other formats it passes everything through."""
    return torch.amp.GradScaler(device.type, enabled=precision(device, config) == "fp16")


def autocast(device: torch.device, config: OptimConfig) -> torch.autocast:
    """The mixed-precision region of the encoder."""
    amp = precision(device, config)
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=amp != "off")
