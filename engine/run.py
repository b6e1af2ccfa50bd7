"""A run from its configuration to its report."""

from __future__ import annotations

from pathlib import Path

from engine.config import Resolved
from engine.errors import RunError
from engine.experiment import Experiment, build
from engine.logs import RunLog
from engine.report import describe, report
from engine.testing import read_outcome, stored_weights, test_weights
from engine.train import train
from model import load_weights_file


def run(resolved: Resolved) -> None:
    """Carry out a configuration: train and test, or test stored weights; write everything into the run folder.

    Raises:
        RunError, NonFiniteLossError: see there.
        ConfigError, feeders.DataError, model.EncoderError, model.WeightsError: what is named cannot be used.
    """
    if resolved.config.phase == "train":
        _train(resolved)
    else:
        _test(resolved)


def _train(resolved: Resolved) -> None:
    experiment = build(resolved.config)
    # Whatever can be refused is refused before anything is written or moved.
    experiment.train_clips.num_batches(resolved.config.optim.batch_size)
    said = _take_up(experiment)
    folder, counters = experiment.folder, experiment.counters
    folder.create()
    folder.describe(resolved, experiment.device)
    with RunLog(folder.path, counters.trained, counters.tested) as log:
        for line in [_opening(experiment), *experiment.remarks, *said]:
            log.say(line)
        train(experiment, log)
        report(experiment, folder, log, read_outcome(experiment))


def _test(resolved: Resolved) -> None:
    experiment = build(resolved.config)
    experiment.average = None  # a checkpoint's `encoder` is already the average, where there is one
    stored = stored_weights(experiment)
    for weights in stored:
        load_weights_file(experiment.encoder, weights.path)
    folder = experiment.folder.of_tests
    folder.create()
    folder.describe(resolved, experiment.device)
    with RunLog(folder.path) as log:
        for line in [_opening(experiment), *experiment.remarks]:
            log.say(line)
        report(experiment, folder, log, test_weights(experiment, stored, folder, log))


def _take_up(experiment: Experiment) -> list[str]:
    """Go on with what there is, or start: from given weights, or from scratch. Returns what to tell the user."""
    config, folder = experiment.config, experiment.folder
    if config.resume not in ("auto", "never"):
        given = Path(config.resume)
        if folder.last.exists() and not given.samefile(folder.last):
            raise RunError(
                f"{folder.path} holds a run already; to go on from {given} beside it, give a --name or --work_dir"
            )
        experiment.resume(given)
    elif config.resume == "auto" and folder.last.exists():
        experiment.resume(folder.last)
    else:
        started = _start(experiment)
        if config.resume == "never" and folder.path.exists():
            started.append(f"the earlier run was set aside as {folder.set_aside()}")
        return started
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
