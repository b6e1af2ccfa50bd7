"""Tests within a run: after every epoch, and of stored weights alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from engine.checkpoint import load_checkpoint
from engine.evaluate import Accuracy, measure, predict
from engine.experiment import Experiment
from engine.logs import RunLog
from engine.schema import EXECUTION_KEYS, RunConfig, flatten
from engine.scores import Scores, load_scores, save_scores
from model import load_weights_file


def test_epoch(run: Experiment, log: RunLog) -> bool:
    """Test the newest weights, write their scores, and say whether they are the best so far."""
    epoch = run.counters.trained
    logits = predict(run.tested_encoder, run.test_clips, run.config.optim, run.device)
    accuracy = measure(logits, run.test_clips.labels.cpu().numpy())
    improved = accuracy.top1 > run.counters.best_top1
    if improved:
        run.counters.best_epoch, run.counters.best_top1 = epoch, accuracy.top1
        _write_scores(run, logits, epoch, "best")
    _write_scores(run, logits, epoch, "last")
    values = {"top1": accuracy.top1, "top5": accuracy.top5, "mean_class": accuracy.mean_class}
    log.record("test", epoch, {"epoch": epoch, **values})
    log.say(
        f"epoch {epoch}: test top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} % "
        f"(best {run.counters.best_top1:.2f} % in epoch {run.counters.best_epoch})"
    )
    return improved


def test_weights(run: Experiment, log: RunLog) -> dict[str, tuple[int | None, Accuracy]]:
    """Test stored weights: those of `--weights`, or the last and the best checkpoint of this run.

    Returns:
        Per selection (`test`, or `last` and `best`) the epoch, where known, and the accuracy.
    """
    chosen = (
        {"test": Path(run.config.weights)}
        if run.config.weights is not None
        else {"last": run.folder.last, "best": run.folder.best}
    )
    outcome: dict[str, tuple[int | None, Accuracy]] = {}
    for selection, path in chosen.items():
        epoch = None if selection == "test" else load_checkpoint(path)["epoch"]
        log.say(f"{selection}: {load_weights_file(run.encoder, path)} from {path}")
        logits = predict(run.encoder, run.test_clips, run.config.optim, run.device)
        _write_scores(run, logits, epoch, selection)
        outcome[selection] = (epoch, measure(logits, run.test_clips.labels.cpu().numpy()))
    return outcome


def read_outcome(run: Experiment) -> dict[str, tuple[int | None, Accuracy]]:
    """Epoch and accuracy of the last and the best epoch of a finished run, from its score files."""
    outcome: dict[str, tuple[int | None, Accuracy]] = {}
    for selection in ("last", "best"):
        scores = load_scores(run.folder.scores(selection))
        assert scores.labels is not None, "our own score files carry labels"
        outcome[selection] = (scores.epoch, measure(scores.logits, scores.labels))
    return outcome


def _write_scores(run: Experiment, logits: np.ndarray, epoch: int | None, selection: str) -> None:
    config = run.config
    scores = Scores(
        names=run.test_clips.names,
        labels=run.test_clips.labels.cpu().numpy(),
        logits=logits,
        stream=config.data.stream,
        encoder=config.model.name,
        benchmark=config.data.benchmark,
        epoch=epoch,
        run=str(config.name),
        csre=config.csre.enabled,
        group=_group(config),
        selection=selection,
    )
    save_scores(run.folder.scores(selection), scores)


def _group(config: RunConfig) -> str:
    """A fingerprint of all that the streams of one ensemble have in common."""
    common = {k: v for k, v in flatten(config).items() if k not in EXECUTION_KEYS and k != "data.stream"}
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:16]
