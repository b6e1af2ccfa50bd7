"""Testing: logits of every test clip from the encoder alone, and what they amount to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor

from engine.optim import autocast
from engine.progress import progress
from engine.ranks import Ranks
from engine.schema import OptimConfig
from engine.stopping import StopRequest
from feeders.feeder import Feeder
from model import Encoder


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


@torch.inference_mode()
def predict(
    encoder: Encoder,
    feeder: Feeder,
    config: OptimConfig,
    device: torch.device,
    ranks: Ranks | None = None,
    stop: StopRequest | None = None,
) -> np.ndarray:
    """Logits (n, K) float32 of a feeder's clips in order. Only `encoder.forward` runs: CSRE costs nothing here.

    The ranks take the batches in turns and exchange the logits: every clip is computed once, in the batch in which
    one process computes it, and every rank gets all logits.

    Raises:
        StoppedError: a signal asked for it.
    """
    ranks = ranks or Ranks()
    encoder.eval()
    indices = feeder.epoch_indices(0).split(config.test_batch_size)
    logits: list[Tensor] = []
    for turn in progress(range(0, len(indices), ranks.size), "test"):
        if turn + ranks.rank < len(indices):
            x, _, _, joints = feeder.feed(indices[turn + ranks.rank], epoch=0).to(device)
            with autocast(device, config):
                logits.append(encoder(x, joints=joints).float().cpu())
        if stop is not None and ranks.any(stop.asked is not None)[0]:
            raise stop.error("during a test, which is repeated")
    everyone = ranks.gather(logits)
    return torch.cat([everyone[batch % ranks.size][batch // ranks.size] for batch in range(len(indices))]).numpy()


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
    encoder.eval()
    chosen = torch.linspace(0, len(feeder) - 1, min(clips, len(feeder))).long()
    pooled, labels = [], []
    for indices in chosen.split(config.test_batch_size):
        x, classes, _, joints = feeder.feed(indices, epoch=0).to(device)
        with autocast(device, config):
            features = encoder.features(x, joints=joints)
        pooled.append(features.float().mean(dim=(1, 3, 4)).cpu())
        labels.append(classes.cpu())
    return torch.cat(pooled).numpy(), torch.cat(labels).numpy()
