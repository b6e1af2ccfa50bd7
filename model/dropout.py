"""Dropout whose random numbers are those of the training step."""

from __future__ import annotations

import math

from torch import Tensor

from model.draws import RandomLayer


class Dropout(RandomLayer):
    """In training, zeroes numbers with probability `rate` and divides the others by 1 - rate; (n, ...) -> (n, ...).

    In evaluation, and with rate 0, the input itself comes back.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        return x * (self.numbers(x) >= self.rate) / (1 - self.rate)

    def numbers(self, x: Tensor) -> Tensor:
        """Numbers in [0, 1) that decide what falls, of a shape that goes with that of x."""
        return self.uniform(x, math.prod(x.shape[1:])).view(x.shape)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
