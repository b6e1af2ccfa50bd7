"""Random numbers of layers that drop something in training.

The numbers of a training step depend on its seed, epoch and number, and on a clip's place in the step: not on what was
drawn before, nor on how many processes share the clips.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Draws:
    """The random numbers of one training step, from a generator in the same state in all processes.

    Args:
        generator: on the device of the step.
        rank, ranks: which of how many processes this is; each has as many clips.
    """

    def __init__(self, generator: torch.Generator, rank: int = 0, ranks: int = 1) -> None:
        self.generator = generator
        self.rank = rank
        self.ranks = ranks

    def uniform(self, rows: int, width: int) -> Tensor:
        """Numbers in [0, 1) for the rows of this process: (rows, width), float32; all processes draw alike."""
        shape = (self.ranks * rows, width)
        everyone = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return everyone[self.rank * rows : (self.rank + 1) * rows]


class RandomLayer(nn.Module):
    """A layer that draws in training. Without `draws`, outside of a training run, torch's own generator serves."""

    draws: Draws | None = None

    def uniform(self, x: Tensor, width: int = 1) -> Tensor:
        """Numbers in [0, 1) for every row of x (rows, ...): (rows, width)."""
        if self.draws is None:
            return torch.rand(x.shape[0], width, device=x.device)
        return self.draws.uniform(x.shape[0], width)
