"""Dropout of numbers and of whole branches, whose random numbers are those of the training step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.draws import RandomLayer


class Dropout(RandomLayer):
    """In training, zeroes numbers with probability `rate` and scales the others, so that the mean stays; (n, ...) ->
    (n, ...).

    A number takes one of the three bytes of a draw, since drawing is what takes long. So `rate` is rounded to a
    multiple of 1/256. In evaluation, and with rate 0, the input itself comes back.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.falling = round(256 * rate)
        """Of the 256 values of a byte."""

    def forward(self, x: Tensor) -> Tensor:
        if self.falling == 0 or not self.training:
            return x
        width = math.prod(x.shape[1:])
        drawn = (self.uniform(x, -(-width // 3)) * 2**24).int()
        # The lowest byte of an integer is the first, the highest is empty.
        numbers = drawn.view(torch.uint8).unflatten(1, (-1, 4))[..., :3].flatten(1)[:, :width]
        return x * (numbers.view(x.shape) >= self.falling) * (256 / (256 - self.falling))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


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
