"""Whether initial values look drawn from the distribution that a specification names."""

from __future__ import annotations

import math


def assert_normal(tensor, std, mean=0.0):
    """The values look drawn from N(mean, std): within five standard errors of both."""
    count = tensor.numel()
    assert abs(tensor.mean().item() - mean) <= 5 * std / math.sqrt(count)
    assert abs(tensor.std().item() / std - 1) <= 5 / math.sqrt(2 * count)


def assert_uniform(tensor, bound):
    """The values look drawn evenly from -bound to bound."""
    assert 0.9 * bound < tensor.max() <= bound
    assert -bound <= tensor.min() < -0.9 * bound
    assert abs(tensor.std().item() * math.sqrt(3) / bound - 1) <= 5 / math.sqrt(tensor.numel())
