"""Tests within a run: after every epoch, and of stored weights alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.errors import UserError
from engine.checkpoint import load_checkpoint
from engine.config import differing_keys
from engine.errors import ForeignFileError, RunError
from engine.evaluate import Outcome, measure, predict
from engine.experiment import Experiment
from engine.logs import Log
from engine.run_folder import RunFolder
from engine.schema import EXECUTION_KEYS, flatten
from engine.state import changed_data
from engine.stopping import StopRequest
from feeders.benchmarks import benchmark_name
from fusion.scores import Scores, load_scores, save_scores
from model import load_weights_file


def test_epoch(run: Experiment, log: Log, stop: StopRequest) -> bool:
    """Test the newest weights, write their scores, and say whether they are the best so far.

    Raises:
        StoppedError: a signal asked for it.
    """
    epoch = run.counters.trained
    run.ranks.share_buffers(run.tested_encoder)
    logits = predict(run.tested_encoder, run.test_clips, run.config.optim, run.device, run.ranks, stop)
    accuracy = measure(logits, run.test_clips.labels.cpu().numpy())
    settings = flatten(run.config)
    improved = accuracy.top1 > run.counters.best_top1
    if improved:
        run.counters.best_epoch, run.counters.best_top1 = epoch, accuracy.top1
    for selection in ("best", "last") if improved else ("last",):
        try:
            _write_scores(run, run.folder, logits, epoch, selection, settings)
        except UserError as error:
            log.say(f"WARNING: {error}. The run goes on; the {selection} scores are of an older epoch")
    values = {"top1": accuracy.top1, "top5": accuracy.top5, "mean_class": accuracy.mean_class}
    log.record("test", epoch, {"epoch": epoch, **values})
    log.say(
        f"epoch {epoch}: test top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} % "
        f"(best {run.counters.best_top1:.2f} % in epoch {run.counters.best_epoch})"
    )
    return improved


class StoredWeights(NamedTuple):
    """Weights to test: `last`, `best` or given ones (`test`), and what is known of how they were trained."""

    selection: str
    path: Path
    epoch: int | None
    trained_with: dict[str, Any] | None
    step: int = 0
    """Steps of the next epoch that these weights have seen, too."""


def stored_weights(run: Experiment) -> list[StoredWeights]:
    """What `--phase test` is about: the weights of `--weights`, or the best and then the last checkpoint of the run.

    Raises:
        RunError: the run has no checkpoint, or was trained on other clips, another stream or another encoder than
            the configuration now says; or the given weights were trained on another stream, variant or benchmark.
    """
    if run.config.weights is not None:
        path = Path(run.config.weights)
        try:
            content = load_checkpoint(path)
        except ForeignFileError:  # the import of weights judges it
            return [StoredWeights("test", path, None, None)]
        _check_match(run, path, content["config"])
        return [StoredWeights("test", path, content["epoch"], content["config"])]
    found: list[StoredWeights] = []
    for selection, path in (("best", run.folder.best), ("last", run.folder.last)):
        content = load_checkpoint(path)
        training_only = [key for key in content["config"] if not key.startswith(("data.", "model."))]
        changed = differing_keys(content["config"], run.config, ignore=[*training_only, "data.repeat"])
        changed += changed_data(run, content)
        if changed:
            raise RunError(
                f"{path} was trained with other settings ({'; '.join(changed)}); undo the change, or test it as "
                "another run: --weights FILE with a --name of its own"
            )
        step = content["training"]["counters"]["step"]
        found.append(StoredWeights(selection, path, content["epoch"], content["config"], step))
    return found


def test_weights(run: Experiment, stored: Sequence[StoredWeights], folder: RunFolder, log: Log) -> Outcome:
    """Test stored weights and write their scores into a folder."""
    outcome: Outcome = {}
    for weights in stored:
        log.say(f"{weights.selection}: {load_weights_file(run.encoder, weights.path)} from {weights.path}")
        if weights.step:
            log.say(f"these weights have seen {weights.step} steps more than {weights.epoch} epochs")
        logits = predict(run.encoder, run.test_clips, run.config.optim, run.device, run.ranks)
        _write_scores(run, folder, logits, weights.epoch, weights.selection, weights.trained_with)
        outcome[weights.selection] = (weights.epoch, measure(logits, run.test_clips.labels.cpu().numpy()))
    return outcome


def read_outcome(run: Experiment) -> Outcome:
    """Epoch and accuracy of the last and the best epoch of a finished run, from its score files."""
    outcome: Outcome = {}
    for selection in ("last", "best"):
        scores = load_scores(run.folder.scores(selection))
        assert scores.labels is not None, "our own score files carry labels"
        outcome[selection] = (scores.epoch, measure(scores.logits, scores.labels))
    return outcome


def _check_match(run: Experiment, path: Path, trained_with: dict[str, Any]) -> None:
    """Refuse weights of another stream, variant or benchmark, unless `allow_mismatch` admits them."""
    wanted = flatten(run.config)
    keys = ("data.benchmark", "data.stream", "data.variant")
    mismatches = [f"{key}: {trained_with[key]} -> {wanted[key]}" for key in keys if trained_with[key] != wanted[key]]
    if mismatches and not run.config.allow_mismatch:
        raise RunError(
            f"{path} was trained on something else than it would be tested on ({'; '.join(mismatches)}); set "
            "these as it was trained, or add --allow-mismatch"
        )


def _write_scores(
    run: Experiment,
    folder: RunFolder,
    logits: np.ndarray,
    epoch: int | None,
    selection: str,
    trained_with: dict[str, Any] | None,
) -> None:
    """Write logits with what made them; `trained_with` are the settings of the training, None where unknown."""
    if not run.ranks.first:
        return
    config = run.config
    scores = Scores(
        names=list(run.test_clips.names),
        labels=run.test_clips.labels.cpu().numpy(),
        logits=logits,
        stream=config.data.stream,
        encoder=config.model.name,
        benchmark=benchmark_name(config.data.benchmark),
        epoch=epoch,
        run=str(config.name),
        heads=None if trained_with is None else "+".join(enabled_heads(trained_with)),
        group=None if trained_with is None else _group(trained_with),
        selection=selection,
    )
    save_scores(folder.scores(selection), scores)


def enabled_heads(settings: dict[str, Any]) -> list[str]:
    """The training heads that flattened settings switch on: their sections, and the class name of a user's own."""
    heads = [key.removesuffix(".enabled") for key, value in settings.items() if key.endswith(".enabled") and value]
    own = settings.get("head.name")
    return heads if own is None else [*heads, own.rpartition(":")[2]]


def _group(settings: dict[str, Any]) -> str:
    """A fingerprint of all that the streams of one ensemble have in common."""
    common = {key: value for key, value in settings.items() if key not in EXECUTION_KEYS and key != "data.stream"}
    # Hyperformer's hyper-edges on NW-UCLA are published for each stream.
    common["model.options"] = {key: value for key, value in settings["model.options"].items() if key != "partition"}
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:16]
