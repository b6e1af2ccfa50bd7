"""InfoNCE over chosen similarities (paper equations 8 and 9, with the exponential that a softmax has).

Shapes: N anchors, P positives and K negatives per anchor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Scores(NamedTuple):
    """Similarities of anchors to chosen rows.

    Attributes:
        values: (N, P) or (N, K) floating, cosines; finite.
        valid: same shape, bool: which of them count.
    """

    values: Tensor
    valid: Tensor


def info_nce(positives: Scores, denominators: Sequence[Scores], temperature: float, reduction: str) -> Tensor:
    """Loss of every anchor.

    With S the cosines and tau the temperature, a positive p against the negatives K of one denominator costs
    -log( exp(S_p/tau) / (exp(S_p/tau) + sum over k in K of exp(S_k/tau)) ). The costs are summed or averaged over the
    positives of the anchor and averaged over its denominators.

    Args:
        positives: (N, P).
        denominators: one or more (N, K); each is a set of negatives of its own.
        temperature: tau, above 0.
        reduction: ``mean`` or ``sum`` over the positives.

    Returns:
        (N,); finite also for an anchor without positives or negatives, where it means nothing.
    """
    similarity = positives.values / temperature
    costs = [
        torch.logaddexp(similarity, _log_sum_exp(negatives, temperature)) - similarity for negatives in denominators
    ]
    cost = torch.stack(costs).mean(dim=0)
    total = torch.where(positives.valid, cost, 0).sum(dim=1)
    return total if reduction == "sum" else total / positives.valid.sum(dim=1).clamp(min=1)


def mean_over_active(per_anchor: Tensor, active: Tensor, among: Tensor | None = None) -> Tensor:
    """Mean of ``per_anchor`` (N,) over the anchors that are ``active`` (N,) bool; a differentiable zero if none is.

    ``among``, a scalar, is the number to divide by in place of their own, where they are a part of a larger batch.
    """
    count = active.sum() if among is None else among
    return torch.where(active, per_anchor, 0).sum() / count.clamp(min=1)


def _log_sum_exp(negatives: Scores, temperature: float) -> Tensor:
    """(N, 1): log of the sum of exp(S_k/tau) over the valid negatives."""
    # Without any, the sum would be empty and its logarithm would send NaN backwards; such an anchor is left out later.
    counted = negatives.valid | ~negatives.valid.any(dim=1, keepdim=True)
    return (negatives.values / temperature).masked_fill(~counted, -torch.inf).logsumexp(dim=1, keepdim=True)
