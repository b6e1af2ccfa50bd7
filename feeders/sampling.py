"""What chance decides: which clips are held out, and in an epoch the order of the clips and the draws of each.

The latter are functions of (seed, epoch) alone, and a clip's draws are found at its own training index, so the same
(seed, epoch, index) gives the same augmented clip whatever the batch, the device, the rank or the resumption.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_ORDER, _DRAWS, _HELD_OUT = 0, 1, 2
"""Separate random sources: one must not shift when another is read."""


def epoch_order(length: int, seed: int, epoch: int) -> Tensor:
    """A permutation of the training indices 0 .. length - 1, (length,) int64 on the CPU."""
    return torch.from_numpy(_generator(seed, epoch, _ORDER).permutation(length))


def epoch_draws(length: int, num_draws: int, seed: int, epoch: int) -> Tensor:
    """Uniform numbers in [0, 1), one row per training index: (length, num_draws) float64 on the CPU."""
    return torch.from_numpy(_generator(seed, epoch, _DRAWS).random((length, num_draws)))


def held_out(labels: Tensor, subjects: np.ndarray | None, fraction: float, seed: int) -> Tensor:
    """Which training clips are held out for validation, (clips,) bool on the CPU; a function of its arguments alone.

    With two subjects or more: all clips of round(fraction * subjects) of them, drawn from the seed. Otherwise
    stratified: round(fraction * n) of the n clips of each class, drawn from the seed. Of both at least one, and at most
    all but one (a class of one clip keeps it).

    labels: (clips,) int64. subjects: (clips,) int64, None where the data do not say. fraction: above 0, below 1.
    """
    generator = _generator(seed, 0, _HELD_OUT)
    if subjects is not None and len(people := np.unique(subjects)) > 1:
        return torch.from_numpy(np.isin(subjects, _draw(people, fraction, generator)))
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        mask[_draw(np.flatnonzero(labels.numpy() == label), fraction, generator)] = True
    return mask


def _draw(items: np.ndarray, fraction: float, generator: np.random.Generator) -> np.ndarray:
    number = min(max(round(fraction * len(items)), 1), len(items) - 1)
    return generator.permutation(items)[:number]


def _generator(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    # numpy's, because torch's generator keeps only 32 bits of its seed and numpy mixes whole tuples into one.
    return np.random.default_rng([seed, epoch, purpose])
