"""How strongly each loss pulls at the encoder: its gradient at the last map, which all losses behind it share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

PREFIX = "gradient_"
"""Of the logged norms: `gradient_<loss>`."""


def squared_gradients(losses: Mapping[str, Tensor], features: Tensor) -> dict[str, Tensor]:
    """The squared norm of each loss's gradient at the features (N, M, C', T', V') of this rank: name -> float32 scalar.

    A loss that does not depend on the features is left out. The graph stays as it is; nothing before the features is
    differentiated, so this costs little beside a training step.
    """
    squares = {}
    for name, loss in losses.items():
        if loss.requires_grad and features.requires_grad:
            (gradient,) = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
            if gradient is not None:
                squares[name] = gradient.float().square().sum()
    return squares
