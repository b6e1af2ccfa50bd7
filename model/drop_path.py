"""Stochastic depth."""

from __future__ import annotations

from torch import Tensor

from model.draws import RandomLayer


class DropPath(RandomLayer):
    """In training, drops a branch for some rows of the batch and scales it for the others; (n, ...) -> (n, ...).

    A row is zeroed with probability `rate`, the rest is divided by 1 - rate, so that the mean stays (Huang et al.,
    ECCV 2016). In evaluation, and with rate 0, the input itself comes back.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = self.uniform(x).view(-1, *[1] * (x.ndim - 1)) >= self.rate
        return x * keep / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
