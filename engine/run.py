"""A run from its configuration to its report."""

from __future__ import annotations

from pathlib import Path

from engine.config import Resolved
from engine.errors import RunError
from engine.experiment import Experiment, build
from engine.logs import RunLog
from engine.report import describe, report
from engine.testing import read_outcome, test_weights
from engine.train import train
from model import load_weights_file


def run(resolved: Resolved) -> None:
    """Carry out a configuration: train and test, or test stored weights; write everything into the run folder.

    Raises:
        RunError, NonFiniteLossError: see there.
        ConfigError, feeders.DataError, model.EncoderError, model.WeightsError: what is named cannot be used.
    """
    config = resolved.config
    experiment = build(config)
    training = config.phase == "train"
    said = _take_up(experiment) if training else []
    experiment.folder.create()
    if training or not (experiment.folder.path / "config.yaml").exists():
        experiment.folder.describe(resolved, experiment.device)
    from_epoch = experiment.counters.trained if training else None
    with RunLog(experiment.folder.path, from_epoch) as log:
        log.say(_opening(experiment))
        for line in [*experiment.remarks, *said]:
            log.say(line)
        if training:
            train(experiment, log)
            report(experiment, log, read_outcome(experiment))
        else:
            report(experiment, log, test_weights(experiment, log))


def _take_up(experiment: Experiment) -> list[str]:
    """Go on with what there is, or start: from given weights, or from scratch. Returns what to tell the user."""
    config, folder = experiment.config, experiment.folder
    exists = folder.last.exists()
    if config.resume == "never" and folder.path.exists():
        return [f"the earlier run was set aside as {folder.set_aside()}", *_start(experiment)]
    if config.resume not in ("auto", "never"):
        given = Path(config.resume)
        if exists and folder.path.resolve() not in given.resolve().parents:
            raise RunError(
                f"{folder.path} holds another run; to go on from {given}, give it a --name or --work_dir of its own"
            )
        experiment.resume(given)
    elif config.resume == "auto" and exists:
        experiment.resume(folder.last)
    else:
        return _start(experiment)
    counters = experiment.counters
    if counters.tested < config.optim.epochs:
        return [f"going on after epoch {counters.trained}"]
    return [f"this run is complete ({counters.tested} epochs); raise optim.epochs, or repeat it with --resume never"]


def _start(experiment: Experiment) -> list[str]:
    if experiment.config.weights is None:
        return []
    origin = load_weights_file(experiment.encoder, Path(experiment.config.weights))
    return [f"starting from {origin} in {experiment.config.weights}"]


def _opening(run: Experiment) -> str:
    parameters = sum(parameter.numel() for parameter in run.encoder.parameters())
    return (
        f"{describe(run)}: {len(run.train_clips)} training and {len(run.test_clips)} test clips, "
        f"{parameters:,} encoder parameters, {run.device}, run folder {run.folder.path}"
    )
