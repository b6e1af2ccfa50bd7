"""All objects of a run, built from its configuration."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from common.words import did_you_mean
from engine.config import run_path
from engine.errors import ConfigError
from engine.optim import WeightAverage, build_average, build_optimizer, build_scaler, remarks_on_precision
from engine.processes import Processes, device_of
from engine.run_folder import RunFolder
from engine.schema import RunConfig
from engine.sync_norm import synchronise_batch_norm
from feeders.benchmarks import get_benchmark
from feeders.choices import SPLITS, Split
from feeders.feeder import Feeder
from feeders.open import open_store, place_store
from feeders.store.packed import PackedStore
from graph import get_skeleton
from heads.head import TrainingHead
from heads.registry import build_heads
from model import Encoder, build_encoder

CLIPS_FOR_BATCH_NORM = 16
"""Clips of one process below which its batch normalisations estimate too little for a published recipe."""


@dataclass
class Counters:
    """How far a run is: epochs trained, epochs tested, and the best so far, on the held-out clips where there are any.

    step: steps done of the epoch in progress, 0 between epochs; skipped: those of them that were skipped;
    streak: steps skipped in a row until now.
    """

    trained: int = 0
    tested: int = 0
    step: int = 0
    skipped: int = 0
    streak: int = 0
    best_epoch: int = 0
    best_top1: float = -1.0


class TrainingForward(nn.Module):
    """What the ranks differentiate together: the encoder and the layers of the heads, without the heads' state.

    Args:
        encoder: what is trained.
        heads: what is trained beside it, by name.
        compiled: whether torch.compile compiles the encoder up to its last map, from which on each loss has a gradient
            of its own.
    """

    def __init__(self, encoder: Encoder, heads: Mapping[str, TrainingHead], compiled: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.trained = nn.ModuleList(head.trained for head in heads.values())
        self._project = {name: head.project for name, head in heads.items()}
        self._reads = frozenset[str]().union(*(head.reads for head in heads.values()))
        self._observe = torch.compile(encoder.observe, dynamic=False) if compiled else encoder.observe

    def forward(self, x: Tensor, joints: Tensor) -> tuple[Tensor, dict[str, dict[str, Tensor]], Tensor]:
        """Logits (N, K), each head's projections, name -> (N, D), and features, for x and joints (N, 3, T, V, M)."""
        observed = self._observe(x, joints, self._reads)
        logits = self.encoder.classify(observed.features)
        return logits, {name: project(observed) for name, project in self._project.items()}, observed.features


@dataclass
class Experiment:
    """The objects of a run. One that only tests has no heads, no moving average and no training clips.

    Attributes:
        validation_clips: those held out of training, if any; they choose the best epoch.
        heads: by name.
        average: the moving average of the weights, if one is kept.
        forward: the part of a training step that the ranks differentiate together (`TrainingForward`, after
            `connect_ranks` inside torch's DistributedDataParallel).
        statistics: of its batch normalisations, which every step moves.
        sums: of the logged quantities over the steps of the epoch in progress.
        loss_names: those of them that are losses.
    """

    config: RunConfig
    folder: RunFolder
    ranks: Processes
    device: torch.device
    remarks: tuple[str, ...]
    training_split: Feeder | None
    validation_clips: Feeder | None
    test_clips: Feeder
    encoder: Encoder
    heads: dict[str, TrainingHead]
    average: WeightAverage | None
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    forward: nn.Module
    statistics: list[Tensor]
    counters: Counters = field(default_factory=Counters)
    sums: dict[str, Tensor] = field(default_factory=dict)
    loss_names: list[str] = field(default_factory=list)

    @property
    def train_clips(self) -> Feeder:
        """The clips that are trained on."""
        assert self.training_split is not None, "a run that only tests reads no training clips"
        return self.training_split

    @property
    def is_complete(self) -> bool:
        """Whether all epochs are trained and tested, or `optim.patience` ended the training."""
        counters, config = self.counters, self.config
        waited = counters.tested - counters.best_epoch
        out_of_patience = (
            config.optim.patience is not None
            and counters.best_epoch > 0
            and waited >= config.optim.patience
            and counters.tested % config.log.test_every == 0
            and (counters.trained, counters.step) == (counters.tested, 0)
        )
        return out_of_patience or counters.tested >= config.optim.epochs

    @property
    def tested_encoder(self) -> Encoder:
        """The encoder that tests use: the moving average where there is one."""
        if self.average is None:
            return self.encoder
        assert isinstance(self.average.module, Encoder)
        return self.average.module


def build(config: RunConfig, ranks: Processes | None = None, store: PackedStore | None = None) -> Experiment:
    """Open the data and build everything that the configuration names; on a `store` that is open and placed already.

    Raises:
        ConfigError, RunError, feeders.DataError, model.EncoderError, heads.HeadError: what the configuration names
            cannot be had.
    """
    ranks = ranks or Processes()
    _check_ranks(config, ranks)
    device = device_of(config.device, ranks.local_rank)
    if config.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA first multiplies
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.set_float32_matmul_precision(config.optim.matmul if device.type == "cuda" else "highest")
    torch.backends.cudnn.allow_tf32 = config.optim.matmul == "high"  # by itself torch has it on for convolutions
    benchmark = get_benchmark(config.data.benchmark)
    training = config.phase == "train"
    data_remarks: tuple[str, ...] = ()
    if store is None:
        splits: tuple[Split, ...] = SPLITS if training else ("test",)
        opened = open_store(benchmark, config.data.path, config.data.on_bad_clip, splits)
        store, data_remarks = place_store(opened.store, config.data.placement, device), opened.remarks
    window = config.data.window or benchmark.window
    feeder = partial(
        Feeder,
        store,
        benchmark,
        stream=config.data.stream,
        variant=config.data.variant,
        window=window,
        repeat=config.data.repeat,
        second_person=config.data.second_person,
        rotation=config.data.rotation,
        origin=config.data.origin,
        bone_scale=config.data.bone_scale,
        validation=config.data.validation,
        seed=config.seed,
        channels=config.model.options.get("in_channels", 3),
    )
    train_clips = feeder(split="train") if training else None

    torch.manual_seed(config.seed)  # before the encoder: its weights are then the same with heads and without
    try:
        encoder = build_encoder(
            config.model.name,
            skeleton=get_skeleton(benchmark.skeleton),
            num_classes=benchmark.num_classes,
            num_persons=benchmark.num_persons,
            window=window,
            **config.model.options,
        ).to(device)
        for part in frozen_parts(encoder, config.optim.freeze):
            part.requires_grad_(False)
        heads = {} if train_clips is None else build_heads(vars(config), encoder, train_clips.labels)
        trained = [encoder, *(head.to(device).trained for head in heads.values())]
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("memory|overflow", str(error)):
            raise
        raise ConfigError(
            f"the model does not fit the memory of {device} ({str(error).partition(chr(10))[0]}); lower data.window, "
            "model.options or the sizes of the training heads"
        ) from None
    factors = {encoder.get_parameter(name): factor for name, factor in encoder.weight_decay_factors().items()}
    optimizer = build_optimizer([weight for module in trained for weight in module.parameters()], config.optim, factors)
    forward = TrainingForward(encoder, heads, config.compile)
    return Experiment(
        config=config,
        ranks=ranks,
        folder=RunFolder(run_path(config.work_dir, config.data.benchmark, str(config.name))),
        device=device,
        remarks=(
            *data_remarks,
            *remarks_on_ranks(config, ranks, encoder),
            *remarks_on_precision(device, config.optim),
        ),
        training_split=train_clips,
        validation_clips=feeder(split="validation") if training and config.data.validation else None,
        test_clips=feeder(split="test"),
        encoder=encoder,
        heads=heads,
        average=build_average(encoder, config.optim) if training else None,
        optimizer=optimizer,
        scaler=build_scaler(device, config.optim),
        forward=forward,
        statistics=[
            buffer for name, buffer in forward.named_buffers() if name.endswith(("running_mean", "running_var"))
        ],
    )


def connect_ranks(run: Experiment) -> None:
    """Let several ranks train one encoder: with the mean of their gradients and, with `optim.sync_batchnorm`, the batch
    statistics of all of them. Collective: only for runs that every rank has built.
    """
    if run.ranks.size == 1:
        return
    on_gpu = run.device.type == "cuda"
    if run.config.optim.sync_batchnorm:
        synchronise_batch_norm(run.forward, run.device)
    # The gradient of a 1x1 convolution may come in another layout than its weight; copying it costs next to nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # A static graph admits parameters that never get a gradient, which some encoders have.
    run.forward = DistributedDataParallel(run.forward, device_ids=[run.device] if on_gpu else None, static_graph=True)


def remarks_on_ranks(config: RunConfig, ranks: Processes, encoder: nn.Module) -> list[str]:
    """A warning where batch normalisation sees so few clips that it is no longer the published training."""
    clips = config.optim.batch_size // ranks.size
    normalises = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in encoder.modules())
    if ranks.size == 1 or clips >= CLIPS_FOR_BATCH_NORM or config.optim.sync_batchnorm or not normalises:
        return []
    return [
        f"WARNING: batch normalisation sees {clips} clips in each of the {ranks.size} processes, fewer than the "
        "published recipes; add --optim.sync_batchnorm true, or train one stream on each GPU"
    ]


def frozen_parts(encoder: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The parts of the encoder that `optim.freeze` names; ConfigError for one that it does not have."""
    parts = dict(encoder.named_modules())
    for name in names:
        if not name or name not in parts:
            known = [part for part in parts if part and part.count(".") <= 1]
            raise ConfigError(
                f"optim.freeze: the encoder has no part {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}"
            )
    return [parts[name] for name in names]


def _check_ranks(config: RunConfig, ranks: Processes) -> None:
    if config.optim.batch_size % ranks.size:
        raise ConfigError(
            f"optim.batch_size: {config.optim.batch_size} clips cannot be shared by {ranks.size} processes; make it a "
            f"multiple of {ranks.size}, or start another number of processes"
        )
