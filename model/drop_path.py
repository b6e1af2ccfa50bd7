"""Stochastic depth."""

from __future__ import annotations

from torch import Tensor

from model.dropout import Dropout


class DropPath(Dropout):
    """In training, drops a branch for some rows of the batch and scales it for the others; (n, ...) -> (n, ...).

    A row is zeroed with probability `rate`, the rest is divided by 1 - rate, so that the mean stays (Huang et al.,
    ECCV 2016). In evaluation, and with rate 0, the input itself comes back.
    """

    def numbers(self, x: Tensor) -> Tensor:
        return self.uniform(x).view(-1, *[1] * (x.ndim - 1))
