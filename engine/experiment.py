"""All objects of a run, built from its configuration."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from csre import CSRE, CSREError
from engine.errors import ConfigError
from engine.optim import build_average, build_optimizer, build_scaler, build_schedule
from engine.ranks import Ranks, device_of
from engine.run_folder import RunFolder
from engine.schema import RunConfig
from engine.step import TrainingStep
from engine.sync_norm import synchronise_batch_norm
from feeders.benchmarks import get_benchmark
from feeders.choices import SPLITS
from feeders.feeder import Feeder
from feeders.open import open_store, place_store
from graph import get_skeleton
from model import Encoder, build_encoder


@dataclass
class Counters:
    """How far a run is: epochs trained, epochs tested, and the best test so far.

    step: steps done of the epoch in progress, 0 between epochs; skipped: those of them that were left out;
    streak: steps left out in a row until now.
    """

    trained: int = 0
    tested: int = 0
    step: int = 0
    skipped: int = 0
    streak: int = 0
    best_epoch: int = 0
    best_top1: float = -1.0


@dataclass
class Experiment:
    """The objects of a run. `csre` is None for a plain encoder, `average` where no moving average is kept; a run that
    only tests has neither, and no training clips.

    forward: the part of a training step that the ranks differentiate together (`TrainingStep`, with several ranks
    inside torch's DistributedDataParallel). sums: of the logged quantities over the steps of the epoch in progress.
    """

    config: RunConfig
    folder: RunFolder
    ranks: Ranks
    device: torch.device
    remarks: tuple[str, ...]
    training_split: Feeder | None
    test_clips: Feeder
    encoder: Encoder
    csre: CSRE | None
    average: AveragedModel | None
    optimizer: Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler
    forward: nn.Module
    counters: Counters = field(default_factory=Counters)
    sums: dict[str, Tensor] = field(default_factory=dict)

    @property
    def train_clips(self) -> Feeder:
        """The clips that are trained on."""
        assert self.training_split is not None, "a run that only tests reads no training clips"
        return self.training_split

    @property
    def tested_encoder(self) -> Encoder:
        """The encoder that tests use: the moving average where there is one."""
        if self.average is None:
            return self.encoder
        assert isinstance(self.average.module, Encoder)
        return self.average.module


def build(config: RunConfig, ranks: Ranks | None = None) -> Experiment:
    """Open the data and build everything that the configuration names.

    Raises:
        ConfigError, RunError, feeders.DataError, model.EncoderError: what the configuration names cannot be had.
    """
    ranks = ranks or Ranks()
    _check_ranks(config, ranks)
    device = device_of(config.device, ranks.local_rank)
    if config.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    benchmark = get_benchmark(config.data.benchmark)
    training = config.phase == "train"
    opened = open_store(benchmark, config.data.path, config.data.on_bad_clip, splits=SPLITS if training else ("test",))
    store = place_store(opened.store, config.data.placement, device)
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
    )
    train_clips = feeder(split="train") if training else None

    torch.manual_seed(config.seed)  # before the encoder: its weights are then the same with and without CSRE
    encoder = build_encoder(
        config.model.name,
        skeleton=get_skeleton(benchmark.skeleton),
        num_classes=benchmark.num_classes,
        num_persons=benchmark.num_persons,
        window=window,
        **config.model.options,
    ).to(device)
    if config.optim.sync_batchnorm and ranks.size > 1:
        encoder = synchronise_batch_norm(encoder, device)
    csre = None
    if config.csre.enabled and train_clips is not None:
        csre = _build_csre(config, encoder, train_clips.labels, ranks).to(device)
    parameters = [*encoder.parameters(), *(csre.parameters() if csre is not None else ())]
    optimizer = build_optimizer(parameters, config.optim)
    return Experiment(
        config=config,
        ranks=ranks,
        folder=RunFolder(Path(config.work_dir) / benchmark.name / str(config.name)),
        device=device,
        remarks=opened.remarks,
        training_split=train_clips,
        test_clips=feeder(split="test"),
        encoder=encoder,
        csre=csre,
        average=build_average(encoder, config.optim) if training else None,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, config.optim),
        scaler=build_scaler(device, config.optim),
        forward=_over_ranks(TrainingStep(encoder, csre), ranks, device),
    )


def _over_ranks(step: TrainingStep, ranks: Ranks, device: torch.device) -> nn.Module:
    if ranks.size == 1:
        return step
    # The gradient of a 1x1 convolution may come in another layout than its weight; copying it costs next to nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # A static graph admits parameters that never get a gradient, which some encoders have.
    return DistributedDataParallel(step, device_ids=[device] if device.type == "cuda" else None, static_graph=True)


def _check_ranks(config: RunConfig, ranks: Ranks) -> None:
    if config.optim.batch_size % ranks.size:
        raise ConfigError(
            f"optim.batch_size: {config.optim.batch_size} clips cannot be shared by {ranks.size} processes; make it a "
            f"multiple of {ranks.size}, or start another number of processes"
        )


def _build_csre(config: RunConfig, encoder: Encoder, labels: torch.Tensor, ranks: Ranks) -> CSRE:
    options = config.csre
    try:
        return CSRE(
            encoder.feature_shape,
            labels,
            temperature=options.temperature,
            dim=options.dim,
            reduction=options.reduction,
            branches=options.branches,
            weight=options.weight,
            denominator=options.denominator,
            positive_reduction=options.positive_reduction,
            repeated_negatives=options.repeated_negatives,
            own_row=options.own_row,
            too_few=options.too_few,
            positives=(options.positives.hard, options.positives.random),
            negatives=(options.negatives.hard, options.negatives.random),
            bank_dtype=options.bank.dtype,
            capacity=options.bank.capacity,
            shard=(ranks.rank, ranks.size) if options.bank.sharded and ranks.size > 1 else None,
        )
    except CSREError as error:
        raise ConfigError(f"csre: {error}") from None
