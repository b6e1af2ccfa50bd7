"""Optimiser, learning-rate schedule and weight average of a run, all from torch's own libraries."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from engine.schema import OptimConfig


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> Optimizer:
    """SGD (with Nesterov momentum as configured) or AdamW; weight decay acts on every parameter, as in the recipes."""
    if config.name == "sgd":
        return SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
    return AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)


def learning_rate_factor(epoch: int, config: OptimConfig) -> float:
    """Factor on `optim.lr` in an epoch, counted from 0: linear warm-up, then a step down at every milestone passed."""
    if epoch < config.warmup_epochs:
        return (epoch + 1) / config.warmup_epochs
    return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)


def build_schedule(optimizer: Optimizer, config: OptimConfig) -> LambdaLR:
    """The schedule of `learning_rate_factor`, stepped once after each epoch."""
    return LambdaLR(optimizer, lambda epoch: learning_rate_factor(epoch, config))


def build_average(encoder: nn.Module, config: OptimConfig) -> AveragedModel | None:
    """Exponential moving average of the encoder's weights and batch-norm statistics, if configured."""
    if config.ema_decay is None:
        return None
    return AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)


def build_scaler(device: torch.device, config: OptimConfig) -> torch.amp.GradScaler:
    """The gradient scaler that float16 needs; for the other formats it passes everything through."""
    return torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")


def autocast(device: torch.device, config: OptimConfig) -> torch.autocast:
    """The mixed-precision region of the encoder."""
    dtype = torch.float16 if config.amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=config.amp != "off")
