"""Random numbers of layers that drop something in training.

A number depends on the step's key, such as (seed, epoch, step), and on its place in the step: the layer, which of the
layer's draws, the row, the column. It does not depend on what was drawn before, on the device, nor on how many
processes share the clips. Plain tensor operations compute it, which torch.compile takes as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

LOW_32 = 2**32 - 1


class Draws:
    """The random numbers of one training step.

    Args:
        key: integers >= 0 that name the step, the same in all processes.
        device: of the step.
        rank: which process this is; each has as many rows.
    """

    def __init__(self, key: Sequence[int], device: torch.device | str = "cpu", rank: int = 0) -> None:
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        # A tensor: torch.compile would compile the encoder anew for every other Python number.
        self.seed = torch.full((), seed, device=device)
        self.rank = rank

    def uniform(self, rows: int, width: int, layer: int = 0, draw: int = 0) -> Tensor:
        """Numbers in [0, 1) for the rows of this process: (rows, width), float32."""
        row = self.rank * rows + torch.arange(rows, device=self.seed.device)[:, None]
        bits = self.seed
        for place in (layer, draw, row, torch.arange(width, device=self.seed.device)):
            bits = _mixed(bits ^ place)
        return (bits >> 8) / 2**24  # the 24 bits that float32 holds


class RandomLayer(nn.Module):
    """A layer that draws in training. Without `draws`, outside of a training run, torch's own generator serves."""

    draws: Draws | None = None
    number: int = 0
    """Which of the encoder's layers that draw this is."""

    def uniform(self, x: Tensor, width: int = 1, draw: int = 0) -> Tensor:
        """Numbers in [0, 1) for every row of x (rows, ...): (rows, width). A layer numbers its draws of a step."""
        if self.draws is None:
            return torch.rand(x.shape[0], width, device=x.device)
        return self.draws.uniform(x.shape[0], width, self.number, draw)


def _mixed(bits: Tensor) -> Tensor:
    """Maps the integers below 2**32 (int64) one to one to others that look random: Wellons' hash lowbias32."""
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x7FEB352D) & LOW_32
    bits = bits ^ (bits >> 15)
    bits = (bits * (0x846CA68B - 2**32)) & LOW_32  # the same modulo 2**32, and the product fits into int64
    return bits ^ (bits >> 16)
