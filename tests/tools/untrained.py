"""A run folder as training leaves it, without the training: random weights in a checkpoint, for tests of tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.checkpoint import save_checkpoint
from engine.schema import RunConfig, flatten
from feeders import get_benchmark
from graph import get_skeleton
from model import Encoder, build_encoder


def untrained_run(folder: Path, seed: int = 0, **settings: Any) -> Encoder:
    """Write the checkpoints of a run with these settings (dots as __, such as data__stream); returns its encoder."""
    values = flatten(RunConfig()) | {key.replace("__", "."): value for key, value in settings.items()}
    benchmark = get_benchmark(values["data.benchmark"])
    torch.manual_seed(seed)
    encoder = build_encoder(
        values["model.name"],
        skeleton=get_skeleton(benchmark.skeleton),
        num_classes=benchmark.num_classes,
        num_persons=benchmark.num_persons,
        window=values["data.window"] or benchmark.window,
        **values["model.options"],
    )
    for layer in encoder.modules():  # statistics as of data, and no layer that starts switched off
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            torch.nn.init.normal_(layer.running_mean, std=0.1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
            torch.nn.init.uniform_(layer.weight, 0.5, 1)
    (folder / "checkpoints").mkdir(parents=True)
    content = {"encoder": encoder.state_dict(), "epoch": 1, "config": values, "data": {}, "graph": ""}
    content["training"] = {"counters": {"step": 0}}
    for name in ("best", "last"):
        save_checkpoint(folder / "checkpoints" / f"{name}.pt", content)
    return encoder.eval()
