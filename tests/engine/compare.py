"""What tests of runs compare checkpoints with."""

from __future__ import annotations

from typing import Any

import torch


def equal(first: Any, second: Any) -> bool:
    """Bit equality of nested checkpoint contents."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second
