"""A run from its configuration to its report."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from common.files import user_path
from engine.checkpoint import load_checkpoint, remove_unfinished
from engine.config import Resolved
from engine.errors import ForeignFileError, RunError
from engine.evaluate import Outcome, read_outcome, restore_scores, stored_weights, test_weights
from engine.experiment import Experiment, build, connect_ranks
from engine.logs import Log, RunLog, SilentLog
from engine.processes import Processes, join_processes
from engine.report import describe, report
from engine.run_folder import FolderLock, RunFolder
from engine.state import name_last, newest_intact, resume, seed_rank
from engine.train import train
from model import load_weights_file


def run(resolved: Resolved) -> None:
    """Carry out a configuration: train and test, or test stored weights; write everything into the run folder.

    Raises:
        RunError, NonFiniteLossError, StoppedError, OtherRankError: see there.
        ConfigError, feeders.DataError, model.EncoderError, model.WeightsError: what is named cannot be used.
    """
    with join_processes(resolved.config.device) as ranks:
        carry_out = _train if resolved.config.phase == "train" else _test
        carry_out(resolved, ranks)


def _train(resolved: Resolved, ranks: Processes) -> None:
    experiment = ranks.together(lambda: build(resolved.config, ranks))
    folder = experiment.folder
    # Whatever can be refused is refused before anything is written or moved.
    ranks.together(lambda: experiment.train_clips.num_batches(resolved.config.optim.batch_size))
    connect_ranks(experiment)
    lock = ranks.together(lambda: FolderLock(folder.path) if ranks.first and folder.path.exists() else None)
    resumed, lines = _resume_or_start(experiment)
    lock, moved = ranks.together(lambda: _prepare_folder(experiment, resolved, lock) if ranks.first else (None, []))
    counters = experiment.counters
    with _log_of(ranks, folder, counters.trained, counters.tested, counters.step) as log:
        for line in [_opening(experiment), *experiment.remarks, *lines, *moved]:
            log.say(line)
        if resumed is not None:
            name_last(experiment, resumed, log)
        train(experiment, log)
        restore_scores(experiment, log)
        if ranks.first:
            _report(experiment, folder, log)
    if lock is not None:
        lock.release()


def _test(resolved: Resolved, ranks: Processes) -> None:
    experiment = ranks.together(lambda: build(resolved.config, ranks))
    stored = ranks.together(lambda: stored_weights(experiment))
    ranks.together(lambda: [load_weights_file(experiment.encoder, weights.path) for weights in stored])
    folder = experiment.folder.of_tests
    lock = ranks.together(lambda: _prepare_test_folder(folder, resolved, experiment) if ranks.first else None)
    with _log_of(ranks, folder) as log:
        for line in [_opening(experiment), *experiment.remarks]:
            log.say(line)
        outcome = test_weights(experiment, stored, folder, log)
        if ranks.first:
            _report(experiment, folder, log, outcome)
    if lock is not None:
        lock.release()


def _report(experiment: Experiment, folder: RunFolder, log: Log, outcome: Outcome | None = None) -> None:
    """The report of an outcome, by default that of the whole run. Raises RunError when the disk refuses."""
    try:
        report(experiment, folder, log, read_outcome(experiment.folder) if outcome is None else outcome)
    except OSError as error:
        raise RunError(
            f"{folder.path}: the run is complete, but its report could not be written ({error.strerror}); free some "
            "space and run the same command again"
        ) from None


def _resume_or_start(experiment: Experiment) -> tuple[Path | None, list[str]]:
    """Resume from what there is, or start: from given weights, or from scratch.

    Returns the checkpoint it resumes from, None for a start, and lines for the log.
    """
    config, ranks = experiment.config, experiment.ranks
    path, lines = ranks.gather(ranks.together(lambda: _where_to_resume(experiment) if ranks.first else (None, [])))[0]
    if path is None:
        lines = ranks.together(lambda: _start(experiment))
        if ranks.rank > 0:  # dropout differs between the ranks
            seed_rank(config.seed, ranks.rank)
        return None, lines
    ranks.together(lambda: resume(experiment, path))
    counters = experiment.counters
    if experiment.is_complete:
        ended = "optim.epochs" if counters.tested >= config.optim.epochs else "optim.patience"
        remedy = f"raise {ended}, or repeat it with --resume never"
        return path, [*lines, f"this run is complete ({counters.tested} epochs); {remedy}"]
    within = f", step {counters.step} of the next one" if counters.step else ""
    return path, [*lines, f"resuming after epoch {counters.trained}{within}"]


def _where_to_resume(experiment: Experiment) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from, if any, and lines for the log about it."""
    config, folder = experiment.config, experiment.folder
    if config.resume == "never":
        return None, []
    newest = newest_intact(folder.path / "checkpoints") if config.resume == "auto" else None
    if newest is not None:
        return newest
    if config.resume == "auto":
        return None, []
    given = user_path(config.resume)
    if folder.last.exists() and not given.samefile(folder.last):
        raise RunError(
            f"{folder.path} holds a run already; to resume from {given} beside it, give a --name or --work_dir"
        )
    return given, []


def _start(experiment: Experiment) -> list[str]:
    if experiment.config.weights is None:
        return []
    with suppress(ForeignFileError):  # the import of weights judges it
        load_checkpoint(user_path(experiment.config.weights))  # refuses a damaged one of our own
    weights = experiment.config.weights
    return [f"starting from {weights}: {load_weights_file(experiment.encoder, user_path(weights), fine_tune=True)}"]


def _prepare_folder(
    experiment: Experiment, resolved: Resolved, lock: FolderLock | None
) -> tuple[FolderLock, list[str]]:
    """Make the run folder and lock it, once an earlier run there (which `lock` holds) is set aside if so asked."""
    folder, lines = experiment.folder, []
    if experiment.config.resume == "never" and lock is not None:
        lines = [f"the earlier run was set aside as {folder.set_aside()}"]
        lock.release()
        lock = None
    folder.create()
    if lock is None:
        lock = FolderLock(folder.path)
        if folder.last.exists():
            raise RunError(f"{folder.path}: another run was started there in this moment; run the same command again")
    remove_unfinished(folder.path / "checkpoints")
    if not experiment.is_complete:  # a finished run that goes on is unfinished until its next report
        (folder.path / "results.json").unlink(missing_ok=True)
    if not experiment.is_complete or not (folder.path / "environment.json").exists():
        folder.describe(resolved, experiment.device)  # of a finished run, what trained it stays on record
    return lock, lines


def _prepare_test_folder(folder: RunFolder, resolved: Resolved, experiment: Experiment) -> FolderLock:
    folder.create()
    lock = FolderLock(folder.path)
    folder.describe(resolved, experiment.device)
    return lock


def _log_of(ranks: Processes, folder: RunFolder, *newest: int) -> AbstractContextManager[Log]:
    """The log of a rank; `newest` are the arguments of RunLog after the folder."""
    return RunLog(folder.path, *newest) if ranks.first else nullcontext(SilentLog())


def _opening(run: Experiment) -> str:
    parameters = sum(parameter.numel() for parameter in run.encoder.parameters())
    processes = f" x {run.ranks.size} processes" if run.ranks.size > 1 else ""
    training = f"{len(run.training_split)} training and " if run.training_split is not None else ""
    return (
        f"{describe(run)}: {training}{len(run.test_clips)} test clips, "
        f"{parameters:,} encoder parameters, {run.device}{processes}, run folder {run.folder.path}"
    )
