"""Testing: logits of every test clip from the encoder alone, what they amount to, and where a run asks for them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.metrics import confusion_matrix
from torch import Tensor

from common.errors import UserError
from common.files import user_path
from engine.checkpoint import TRAINING_ONLY, changed_facts, load_checkpoint
from engine.config import differing_keys
from engine.errors import ForeignFileError, NonFiniteLossError, RunError
from engine.experiment import Experiment
from engine.logs import Log, progress
from engine.optim import autocast, precision
from engine.predictor import settings_in
from engine.processes import Processes, StopRequest, naming_what_is_too_large
from engine.run_folder import RunFolder
from engine.schema import OptimConfig, RunConfig, flatten, in_effect
from engine.state import changed_data
from feeders.benchmarks import benchmark_name, get_benchmark
from feeders.feeder import Feeder
from fusion.scores import Scores, load_scores, save_scores
from heads.registry import head_names
from model import Encoder, WeightsError, load_weights_file
from model.evaluation import Evaluation


@dataclass(frozen=True)
class Accuracy:
    """Accuracies in percent over `clips` clips; `confusion[i, j]` counts clips of class i taken for class j."""

    clips: int
    top1: float
    top5: float
    per_class: np.ndarray
    confusion: np.ndarray

    @property
    def mean_class(self) -> float:
        """The mean of the accuracies of the classes that occur."""
        return float(np.nanmean(self.per_class))


Outcome = dict[str, tuple[int | None, Accuracy]]
"""Per selection (`last`, `best`, `test`) the epoch of the weights, where known, and their accuracy."""


class Tester(NamedTuple):
    """What one stream is tested with: its encoder, its clips, and the precision of its run."""

    encoder: Encoder
    clips: Feeder
    config: OptimConfig


def predict(
    encoder: Encoder,
    feeder: Feeder,
    config: OptimConfig,
    device: torch.device,
    ranks: Processes | None = None,
    stop: StopRequest | None = None,
) -> np.ndarray:
    """Logits (n, K) float32 of a feeder's clips in order. Only the encoder runs: heads cost nothing here.

    Raises as `predict_together`.
    """
    return predict_together([Tester(encoder, feeder, config)], device, ranks, stop)[0]


@torch.inference_mode()
def predict_together(
    testers: Sequence[Tester], device: torch.device, ranks: Processes | None = None, stop: StopRequest | None = None
) -> list[np.ndarray]:
    """Logits (n, K) float32 of each stream, from one pass over the clips: they are cropped once for all streams.

    The feeders differ in stream and variant alone; the size of the batches is that of the first stream. The ranks take
    the batches in turns and exchange the logits: every clip is computed once, in the batch in which one process
    computes it, and every rank gets all logits.

    Raises:
        StoppedError: a signal asked for it.
        NonFiniteLossError: logits are NaN or infinite.
        RunError: a batch does not fit into the device's memory.
    """
    ranks = ranks or Processes()
    evaluations = [Evaluation(tester.encoder) for tester in testers]
    clips = testers[0].clips
    order, size = clips.epoch_indices(0), testers[0].config.test_batch_size
    batches, placed = order.split(size), order.to(clips.store.device).split(size)
    logits: list[list[Tensor]] = [[] for _ in testers]
    for turn in progress(range(0, len(batches), ranks.size), "test", shown=ranks.first):
        if turn + ranks.rank < len(batches):
            batch, of_store = batches[turn + ranks.rank], placed[turn + ranks.rank]
            with naming_what_is_too_large("optim.test_batch_size", len(batch), "lower it", device, ranks):
                cropped = clips.joints_of(batch, epoch=0, placed=of_store)
                for tester, evaluation, found in zip(testers, evaluations, logits, strict=True):
                    x, _, _, joints = tester.clips.batch_of(of_store, cropped).to(device)
                    with autocast(device, tester.config):
                        found.append(evaluation(x, joints).float())
        if stop is not None and ranks.any(stop.asked is not None)[0]:
            raise stop.error("during a test, which is repeated")
    everyone = ranks.gather([[part.cpu() for part in found] for found in logits])
    predicted = []
    for number, tester in enumerate(testers):
        parts = [everyone[batch % ranks.size][number][batch // ranks.size] for batch in range(len(batches))]
        predicted.append(_finite(torch.cat(parts), tester, device))
    return predicted


def _finite(logits: Tensor, tester: Tester, device: torch.device) -> np.ndarray:
    """The logits (n, K) as an array; NonFiniteLossError where some are NaN or infinite."""
    wrong = (~torch.isfinite(logits).all(dim=1)).nonzero().flatten().tolist()
    if wrong:
        listed = ", ".join(tester.clips.name_of(index) for index in wrong[:8])
        amp = precision(device, tester.config)
        remedy = "check these clips"
        if amp != "off":
            remedy = (
                "train with --optim.amp bf16 or off and another --name, or test these weights with --phase test "
                "--optim.amp off"
            )
        raise NonFiniteLossError(
            f"with optim.amp {amp} the logits of {len(wrong)} test clips are NaN or infinite, such as {listed}; "
            f"{remedy}"
        )
    return logits.numpy()


def measure(logits: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Top-1, top-5 and per-class accuracy (NaN for a class without clips) and the confusion matrix.

    Args:
        logits: (n, K) float.
        labels: (n,) int, classes 0 .. K-1.
    """
    num_classes = logits.shape[1]
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    hits = ranked == labels[:, None]
    confusion = confusion_matrix(labels, ranked[:, 0], labels=np.arange(num_classes))
    with np.errstate(invalid="ignore"):
        per_class = 100 * confusion.diagonal() / confusion.sum(axis=1)
    top1, top5 = (100 * float(hit.mean()) for hit in (hits[:, 0], hits.any(axis=1)))
    return Accuracy(len(labels), top1, top5, per_class, confusion)


@torch.inference_mode()
def pooled_features(
    encoder: Encoder, feeder: Feeder, clips: int, config: OptimConfig, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The last feature map, averaged over persons, frames and joints (n, C), and labels of evenly chosen clips."""
    evaluation = Evaluation(encoder)
    chosen = torch.linspace(0, len(feeder) - 1, min(clips, len(feeder))).long()
    pooled, labels = [], []
    for indices in chosen.split(config.test_batch_size):
        x, classes, _, joints = feeder.feed(indices, epoch=0).to(device)
        with autocast(device, config):
            features = evaluation.features(x, joints)
        pooled.append(features.float().mean(dim=(1, 3, 4)).cpu())
        labels.append(classes.cpu())
    return torch.cat(pooled).numpy(), torch.cat(labels).numpy()


def embedded(features: np.ndarray) -> np.ndarray | None:
    """t-SNE of features (n, C): points (n, 2). None for fewer than 4 or such as hardly differ, where sklearn's crashes
    the process."""
    if len(features) < 4 or not np.ptp(features, axis=0).max() > max(1e-6 * np.abs(features).max(), 1e-12):
        return None
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)


def test_due(config: RunConfig, epoch: int) -> bool:
    """Whether an epoch, counted from 1, is followed by a test."""
    return epoch % config.log.test_every == 0 or epoch >= config.optim.epochs


class Tested(NamedTuple):
    """Accuracies of an epoch on the test clips and, where there are any, on the clips held out of training; and the
    logits (n, K) of the test clips."""

    test: Accuracy
    validation: Accuracy | None
    logits: np.ndarray

    @property
    def deciding(self) -> float:
        """The top-1 accuracy by which the best epoch is chosen."""
        return (self.validation or self.test).top1


def test_epoch(run: Experiment, log: Log, stop: StopRequest) -> Tested:
    """Test the newest weights and write their scores as those of the last epoch.

    Raises:
        StoppedError: a signal asked for it.
        NonFiniteLossError: logits are NaN or infinite.
    """
    epoch = run.counters.trained
    run.ranks.share_buffers(run.tested_encoder)
    accuracies: dict[str, Accuracy] = {}
    for kind, clips in (("validation", run.validation_clips), ("test", run.test_clips)):
        if clips is None:
            continue
        logits = predict(run.tested_encoder, clips, run.config.optim, run.device, run.ranks, stop)
        accuracies[kind] = accuracy = measure(logits, clips.labels.cpu().numpy())
        values = {"top1": accuracy.top1, "top5": accuracy.top5, "mean_class": accuracy.mean_class}
        log.record(kind, epoch, {"epoch": epoch, **values})
    tested = Tested(accuracies["test"], accuracies.get("validation"), logits)
    keep_scores(run, log, tested, "last")
    return tested


def keep_scores(run: Experiment, log: Log, tested: Tested, selection: str) -> None:
    """Write the scores of the epoch that was just tested as those of the last or the best one."""
    try:
        write_scores(run, run.folder, tested.logits, run.counters.trained, selection, flatten(run.config))
    except UserError as error:
        log.say(f"WARNING: {error}. The run continues; the {selection} scores are of an older epoch")


def restore_scores(run: Experiment, log: Log) -> None:
    """Test the best and the last checkpoint of a complete run again where its score file is missing, damaged or of an
    older epoch, because the disk refused a newer one."""
    counters = run.counters
    for selection, path, epoch in (
        ("best", run.folder.best, counters.best_epoch),
        ("last", run.folder.last, counters.tested),
    ):
        file, reason = run.folder.scores(selection), ""
        try:
            if (found := load_scores(file).epoch) != epoch:
                reason = f"{file} is of epoch {found}, the {selection} epoch is {epoch}"
        except UserError as error:
            reason = str(error)
        reason = run.ranks.gather(reason)[0]
        if not reason:
            continue
        log.say(f"WARNING: {reason}; testing {path} again")
        content = load_checkpoint(path)
        encoder = copy.deepcopy(run.encoder)
        encoder.load_state_dict(content["encoder"])
        logits = predict(encoder, run.test_clips, run.config.optim, run.device, run.ranks)
        write_scores(run, run.folder, logits, content["epoch"], selection, content["config"])


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
        path = user_path(run.config.weights)
        try:
            content = load_checkpoint(path)
        except ForeignFileError:
            settings = None
            with suppress(WeightsError):  # the import of weights judges the file
                settings = settings_in(path)
            if settings is not None:
                _check_match(run, path, settings)
            return [StoredWeights("test", path, None, settings)]
        _check_match(run, path, content["config"])
        changed = changed_facts(content, get_benchmark(run.config.data.benchmark), TRAINING_ONLY)
        if changed and not run.config.allow_mismatch:
            raise RunError(
                f"{path} was trained otherwise ({'; '.join(changed)}); undo the change, or add --allow-mismatch"
            )
        step = content["training"]["counters"]["step"]
        return [StoredWeights("test", path, content["epoch"], content["config"], step)]
    found: list[StoredWeights] = []
    for selection, path in (("best", run.folder.best), ("last", run.folder.last)):
        content = load_checkpoint(path)
        ignored = [key for key in content["config"] if not key.startswith(("data.", "model."))]
        ignored += ["data.repeat", "data.benchmark"]  # the latter is a path; `changed_data` looks inside
        changed = differing_keys(content["config"], run.config, ignore=ignored)
        changed += changed_data(run, content, TRAINING_ONLY)
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
        if weights.trained_with is None:
            log.say("these weights do not say what they were trained on: check stream and benchmark yourself")
        if weights.step:
            log.say(f"these weights have seen {weights.step} steps more than {weights.epoch} epochs")
        logits = predict(run.encoder, run.test_clips, run.config.optim, run.device, run.ranks)
        write_scores(run, folder, logits, weights.epoch, weights.selection, weights.trained_with)
        outcome[weights.selection] = (weights.epoch, measure(logits, run.test_clips.labels.cpu().numpy()))
    return outcome


def read_outcome(folder: RunFolder, selections: Sequence[str] = ("last", "best")) -> Outcome:
    """Epoch and accuracy of the weights of a finished run, from its score files."""
    outcome: Outcome = {}
    for selection in selections:
        scores = load_scores(folder.scores(selection))
        assert scores.labels is not None, "our own score files carry labels"
        outcome[selection] = (scores.epoch, measure(scores.logits, scores.labels))
    return outcome


def _check_match(run: Experiment, path: Path, trained_with: dict[str, Any]) -> None:
    """Refuse weights of another stream, variant or benchmark, unless `allow_mismatch` admits them."""
    trained_with, asked = (
        {**settings, "data.benchmark": benchmark_name(settings["data.benchmark"])}
        for settings in (trained_with, flatten(run.config))
    )
    keys = ("data.benchmark", "data.stream", "data.variant")
    mismatches = [key for key in keys if trained_with[key] != asked[key]]
    if mismatches and not run.config.allow_mismatch:
        trained, tested = (
            ", ".join(f"{key}={settings[key]}" for key in mismatches) for settings in (trained_with, asked)
        )
        raise RunError(
            f"config mismatch: {path} was trained with {trained}, you asked for {tested}; test it as it was "
            "trained, or add --allow-mismatch"
        )


def write_scores(
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
        heads=None if trained_with is None else "+".join(head_names(trained_with)),
        group=None if trained_with is None else stream_set(trained_with),
        selection=selection,
    )
    save_scores(folder.scores(selection), scores)


def stream_set(settings: dict[str, Any]) -> str:
    """A fingerprint of the settings (by dotted key) that the streams of one ensemble have in common."""
    # Without what is as by default, so that the fingerprint stays when an option is added.
    default = flatten(RunConfig())
    common = {
        key: value
        for key, value in in_effect(settings).items()
        if key != "data.stream" and (key not in default or value != default[key])
    }
    common["data.benchmark"] = benchmark_name(settings["data.benchmark"])
    # Hyperformer's hyper-edges on NW-UCLA are published for each stream.
    common["model.options"] = {key: value for key, value in settings["model.options"].items() if key != "partition"}
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:16]
