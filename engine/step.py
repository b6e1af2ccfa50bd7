"""One training step up to its losses: what the ranks differentiate together, and how their losses make one.

Letters: N clips of this rank, B = N x ranks clips of the step, K classes, D dimensions of a contrasted feature.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from csre import CSRE, contrast_across_ranks
from feeders.feeder import ClipBatch
from model import Encoder


class TrainingStep(nn.Module):
    """Encoder and projection heads as one module, without the memory banks: those are no parameters to share."""

    def __init__(self, encoder: Encoder, csre: CSRE | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = csre.heads if csre is not None else None
        self._project = csre.project if csre is not None else None

    def forward(self, x: Tensor, joints: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (N, K) and the unit features (N, D) of every branch, for x and joints (N, 3, T, V, M)."""
        features = self.encoder.features(x, joints=joints)
        return self.encoder.classify(features), self._project(features) if self._project is not None else {}


class StepLosses(NamedTuple):
    """The losses of a step by name, whose sum is trained; `per_clip` (N,) cross entropies; `logits` (N, K)."""

    terms: dict[str, Tensor]
    per_clip: Tensor
    logits: Tensor

    @property
    def total(self) -> Tensor:
        """The trained loss, a scalar."""
        return torch.stack(list(self.terms.values())).sum()


def losses_of(
    forward: nn.Module, encoder: Encoder, csre: CSRE | None, batch: ClipBatch, generator: torch.Generator
) -> StepLosses:
    """Losses of this rank's clips, scaled so that their mean over the ranks is the loss of the whole step.

    Args:
        forward: a `TrainingStep`, alone or inside DistributedDataParallel.
        encoder, csre: the parts of it.
        batch: this rank's clips, on the device.
        generator: source of CSRE's random choices, in the same state on all ranks; on the device.
    """
    logits, queries = forward(batch.x, batch.joints)
    per_clip = cross_entropy(logits.float(), batch.labels, reduction="none", label_smoothing=encoder.label_smoothing)
    terms = {"cross_entropy": per_clip.mean(), **encoder.own_losses(batch.labels)}
    if csre is not None:
        terms |= contrast_across_ranks(csre, queries, batch.labels, batch.indices, generator=generator)
    return StepLosses(terms, per_clip, logits)


def generator_of(device: torch.device, *key: int) -> torch.Generator:
    """A generator whose numbers depend on nothing but some whole numbers, such as seed, epoch and step."""
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state)
