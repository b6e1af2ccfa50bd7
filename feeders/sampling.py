"""What chance decides in an epoch: the order of the clips and the draws of each.

Both are functions of (seed, epoch) alone, and a clip's draws are found at its own training index, so the same
(seed, epoch, index) gives the same augmented clip whatever the batch, the device, the rank or the resumption.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_ORDER, _DRAWS = 0, 1
"""Two separate random sources per epoch: one must not shift when the other is read."""


def epoch_order(length: int, seed: int, epoch: int) -> Tensor:
    """A permutation of the training indices 0 .. length - 1, (length,) int64 on the CPU."""
    return torch.from_numpy(_generator(seed, epoch, _ORDER).permutation(length))


def epoch_draws(length: int, num_draws: int, seed: int, epoch: int) -> Tensor:
    """Uniform numbers in [0, 1), one row per training index: (length, num_draws) float64 on the CPU."""
    return torch.from_numpy(_generator(seed, epoch, _DRAWS).random((length, num_draws)))


def _generator(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    # numpy's, because torch's generator keeps only 32 bits of its seed and numpy mixes whole tuples into one.
    return np.random.default_rng([seed, epoch, purpose])
