"""Optimiser, learning-rate schedule and weight average of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from engine.schema import OptimConfig

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimConfig, decay_factors: Mapping[nn.Parameter, float] | None = None
) -> Optimizer:
    """SGD with or without Nesterov momentum, Adam or AdamW.

    Weight decay acts on every parameter, times the parameter's factor where `decay_factors` has one.
    """
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_factor.setdefault((decay_factors or {}).get(parameter, 1.0), []).append(parameter)
    groups = [{"params": group, "weight_decay": factor * config.weight_decay} for factor, group in by_factor.items()]
    if config.name == "sgd":
        return SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
    adam = Adam if config.name == "adam" else AdamW
    return adam(groups, lr=config.lr, weight_decay=config.weight_decay)


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


def build_average(encoder: nn.Module, config: OptimConfig) -> AveragedModel | None:
    """Exponential moving average of the encoder's weights and batch-norm statistics, if configured."""
    if config.ema_decay is None:
        return None
    moving = get_ema_multi_avg_fn(config.ema_decay)

    def average(averages: Tensors, current: Tensors, count: Tensor | int) -> None:
        # Tensors of one kind at a time. Integers are counts and indices: an average would be cut to the one below.
        if averages[0].is_floating_point():
            moving(averages, current, count)
        else:
            torch._foreach_copy_(averages, current)

    return AveragedModel(encoder, multi_avg_fn=average, use_buffers=True)


def precision(device: torch.device, config: OptimConfig) -> Literal["off", "bf16", "fp16"]:
    """The mixed precision of a run on a device: as configured, or with `auto` that of the recipe on CUDA."""
    if config.amp == "auto":
        return config.published_amp if device.type == "cuda" else "off"
    return config.amp


def build_scaler(device: torch.device, config: OptimConfig) -> torch.amp.GradScaler:
    """The gradient scaler that float16 needs; for the other formats it passes everything through."""
    return torch.amp.GradScaler(device.type, enabled=precision(device, config) == "fp16")


def autocast(device: torch.device, config: OptimConfig) -> torch.autocast:
    """The mixed-precision region of the encoder."""
    amp = precision(device, config)
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=amp != "off")
