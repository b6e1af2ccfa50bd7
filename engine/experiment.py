"""All objects of a run, built from its configuration, and their state as one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from csre import CSRE, CSREError
from engine.checkpoint import load_checkpoint, name_also, prune, save_checkpoint
from engine.config import differing_keys
from engine.errors import ConfigError, RunError
from engine.optim import build_average, build_optimizer, build_scaler, build_schedule
from engine.run_folder import RunFolder
from engine.schema import RunConfig, flatten
from feeders.benchmarks import get_benchmark
from feeders.feeder import Feeder
from feeders.open import open_store, place_store
from graph import get_skeleton
from model import Encoder, build_encoder


@dataclass
class Counters:
    """How far a run is: epochs trained, epochs tested, and the best test so far."""

    trained: int = 0
    tested: int = 0
    best_epoch: int = 0
    best_top1: float = -1.0


@dataclass
class Experiment:
    """The objects of a run. `csre` is None for a plain encoder; `average` where no moving average is kept."""

    config: RunConfig
    folder: RunFolder
    device: torch.device
    remarks: tuple[str, ...]
    train_clips: Feeder
    test_clips: Feeder
    encoder: Encoder
    csre: CSRE | None
    average: AveragedModel | None
    optimizer: Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler
    counters: Counters = field(default_factory=Counters)

    @property
    def tested_encoder(self) -> Encoder:
        """The encoder that tests use: the moving average where there is one."""
        if self.average is None:
            return self.encoder
        assert isinstance(self.average.module, Encoder)
        return self.average.module

    def save(self, best: bool = False) -> None:
        """Write the checkpoint of this epoch; it becomes `last`, and `best` if so asked."""
        path = self.folder.epoch(self.counters.trained)
        save_checkpoint(path, self._content())
        name_also(path, self.folder.last)
        if best:
            name_also(path, self.folder.best)
        prune(self.folder.path / "checkpoints", self.config.log.keep_checkpoints)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same run.

        Raises:
            RunError: it was written with other settings or other clips; the message lists what differs.
        """
        content = load_checkpoint(path)
        changed = differing_keys(content["config"], self.config, ignore=["optim.epochs"])
        if self.config.weights not in (None, content["config"]["weights"]):
            changed.append(f"weights: {content['config']['weights']} -> {self.config.weights}")
        if content["data"] != self.train_clips.store.fingerprint:
            changed.append("the clips themselves")
        if changed:
            raise RunError(
                f"{path} was trained with other settings ({'; '.join(changed)}); "
                "undo the change, or start another run with --name, --work_dir or --resume never"
            )
        self.config.weights = content["config"]["weights"]  # where the run began stays on record
        training = content["training"]
        self.encoder.load_state_dict(training["encoder"])
        self.optimizer.load_state_dict(training["optimizer"])
        self.schedule.load_state_dict(training["schedule"])
        self.scaler.load_state_dict(training["scaler"])
        if self.average is not None:
            self.average.load_state_dict(training["average"])
        if self.csre is not None:
            self.csre.load_state_dict(training["csre"])
        self.counters = Counters(**training["counters"])
        if not self.folder.scores("best").exists():  # the checkpoint comes from another folder
            self.counters.best_epoch, self.counters.best_top1 = 0, -1.0
        if not self.folder.scores("last").exists():  # so that this folder gets the scores of its newest epoch
            self.counters.tested = min(self.counters.tested, self.counters.trained - 1)
        _restore_random(training["random"])
        if self.counters.trained > self.config.optim.epochs:
            raise RunError(
                f"{path} has {self.counters.trained} epochs, more than optim.epochs ({self.config.optim.epochs}); "
                "raise it, or start another run with --name"
            )

    def _content(self) -> dict[str, Any]:
        return {
            "encoder": self.tested_encoder.state_dict(),
            "epoch": self.counters.trained,
            "config": flatten(self.config),
            "data": self.train_clips.store.fingerprint,
            "training": {
                "encoder": self.encoder.state_dict(),
                "average": self.average.state_dict() if self.average is not None else None,
                "csre": self.csre.state_dict() if self.csre is not None else None,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "counters": vars(self.counters),
                "random": _random_state(),
            },
        }


def build(config: RunConfig) -> Experiment:
    """Open the data and build everything that the configuration names.

    Raises:
        ConfigError, feeders.DataError, model.EncoderError: what the configuration names cannot be had.
    """
    device = _device(config.device)
    benchmark = get_benchmark(config.data.benchmark)
    opened = open_store(benchmark, config.data.path, config.data.on_bad_clip)
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
        seed=config.seed,
    )
    train_clips, test_clips = feeder(split="train"), feeder(split="test")

    torch.manual_seed(config.seed)  # before the encoder: its weights are then the same with and without CSRE
    encoder = build_encoder(
        config.model.name,
        skeleton=get_skeleton(benchmark.skeleton),
        num_classes=benchmark.num_classes,
        num_persons=benchmark.num_persons,
        window=window,
        **config.model.options,
    ).to(device)
    csre = _build_csre(config, encoder, train_clips.labels).to(device) if config.csre.enabled else None
    parameters = [*encoder.parameters(), *(csre.parameters() if csre is not None else ())]
    optimizer = build_optimizer(parameters, config.optim)
    return Experiment(
        config=config,
        folder=RunFolder(Path(config.work_dir) / config.data.benchmark / str(config.name)),
        device=device,
        remarks=opened.remarks,
        train_clips=train_clips,
        test_clips=test_clips,
        encoder=encoder,
        csre=csre,
        average=build_average(encoder, config.optim),
        optimizer=optimizer,
        schedule=build_schedule(optimizer, config.optim),
        scaler=build_scaler(device, config.optim),
    )


def _build_csre(config: RunConfig, encoder: Encoder, labels: torch.Tensor) -> CSRE:
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
        )
    except CSREError as error:
        raise ConfigError(f"csre: {error}") from None


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, but torch sees no GPU; use --device auto or cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def _random_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def _restore_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
