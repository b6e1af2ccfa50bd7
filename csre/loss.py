"""From unit features and chosen rows to a loss: cosine similarities and InfoNCE (paper section 3.3, eq. 8 and 9).

All of it is computed in the query's dtype, float32 or float64, however the bank is stored.

Shapes: N anchors (the clips of a batch), B rows of the bank, K chosen rows per anchor, P of them positives,
D dimensions of a feature. A loss of S branches at once takes and gives tensors with S as their first dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from csre.options import ContrastOptions
from csre.sampling import Choice, without_repeats

# Rows taken at a time, which bounds what converting them to the query's dtype costs to a few MB.
_BLOCK = 8192
# On a CPU a product of few queries with so many rows, which its caches hold, takes the least time.
_CPU_BLOCK = 1024


def normalise_rows(features: Tensor) -> Tensor:
    """Divide every row of ``features`` (N, D) by its Euclidean length, in float32 or, if given so, float64.

    A row without a direction (zero, or not finite) becomes zero and passes no gradient on, instead of NaN.
    """
    features = features if features.dtype == torch.float64 else features.float()
    length = torch.linalg.vector_norm(features.detach(), dim=1, keepdim=True)
    directed = length.isfinite() & (length > 0)
    # Replaced before the division: masking the quotient alone would still send NaN backwards.
    safe = torch.where(directed, features, 1.0)
    return torch.where(directed, safe / torch.linalg.vector_norm(safe, dim=1, keepdim=True), 0.0)


@torch.no_grad()
def similarities(query: Tensor, bank_rows: Tensor) -> Tensor:
    """Cosine of every unit query (N, D) with every unit row (B, D): (N, B) in the query's dtype, without gradient."""
    blocks = bank_rows.split(_CPU_BLOCK if query.device.type == "cpu" else _BLOCK)
    return torch.cat([query @ block.to(query.dtype).T for block in blocks], dim=1)


def weighted_rows(bank_rows: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Sum over k of weights[n, k] * bank_rows[chosen[n, k]], (N, D) in the dtype of the weights."""
    if bank_rows.dtype == weights.dtype:
        return F.embedding_bag(chosen, bank_rows, per_sample_weights=weights, mode="sum")
    # embedding_bag would round the weights to the bank's dtype, where small gradients vanish.
    columns = max(1, _BLOCK // len(chosen))
    parts = [
        (bank_rows[some].to(weights.dtype) * weight[:, :, None]).sum(dim=1)
        for some, weight in zip(chosen.split(columns, dim=1), weights.split(columns, dim=1), strict=True)
    ]
    return torch.stack(parts).sum(dim=0)


class Cosines(NamedTuple):
    """Similarities of anchors to chosen rows.

    Attributes:
        values: (N, P) or (N, K) floating, cosines; finite.
        valid: same shape, bool: which of them count.
    """

    values: Tensor
    valid: Tensor


def losses_of_choice(similarity: Tensor, choice: Choice, options: ContrastOptions) -> Tensor:
    """The loss of every anchor, (N,); finite also for one that is not active, where it means nothing.

    Args:
        similarity: (N, K) floating, finite, to the rows of ``choice.joined()``.
        choice: what to contrast with.
        options: see there.
    """
    hard, random = choice.hard_negatives, choice.random_negatives
    if options.repeated_negatives == "once":
        random = without_repeats(random, hard)
    widths = [part.rows.shape[-1] for part in (choice.positives, hard, random)]
    valid = choice._replace(random_negatives=random).joined().valid
    positives, *denominators = map(Cosines, similarity.split(widths, dim=-1), valid.split(widths, dim=-1))
    if options.denominator == "joint":
        denominators = [Cosines(similarity[..., widths[0] :], valid[..., widths[0] :])]
    # A rule whose count is 0 has no denominator.
    denominators = [negatives for negatives in denominators if negatives.values.shape[-1] > 0]
    return info_nce(positives, denominators, options.temperature, options.positive_reduction)


def info_nce(positives: Cosines, denominators: Sequence[Cosines], temperature: float, reduction: str) -> Tensor:
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
    total = torch.where(positives.valid, cost, 0).sum(dim=-1)
    return total if reduction == "sum" else total / positives.valid.sum(dim=-1).clamp(min=1)


def mean_similarities(similarity: Tensor, choice: Choice) -> dict[str, Tensor]:
    """Per kind of chosen rows, ``positives``, ``hard_negatives`` and ``random_negatives``, the mean cosine, (N,).

    Args:
        similarity: (N, K) floating, finite, to the rows of ``choice.joined()``.
        choice: what to contrast with; a kind of which no row was asked for is skipped, an anchor without rows gets 0.
    """
    selections = {name: getattr(choice, name) for name in ("positives", "hard_negatives", "random_negatives")}
    parts = similarity.detach().split([selection.rows.shape[-1] for selection in selections.values()], dim=-1)
    return {
        name: torch.where(selection.valid, part, 0).sum(dim=-1) / selection.valid.sum(dim=-1).clamp(min=1)
        for (name, selection), part in zip(selections.items(), parts, strict=True)
        if part.shape[-1] > 0
    }


def mean_over_active(per_anchor: Tensor, active: Tensor, count: Tensor) -> Tensor:
    """Sum of ``per_anchor`` (..., N) over the ``active`` anchors (..., N) bool, divided by their ``count`` (...).

    The count is that of a whole batch, of which these anchors may be a part; if it is 0, zeros, still differentiable.
    """
    return torch.where(active, per_anchor, 0).sum(dim=-1) / count.clamp(min=1)


def _log_sum_exp(negatives: Cosines, temperature: float) -> Tensor:
    """(N, 1): log of the sum of exp(S_k/tau) over the valid negatives."""
    # Without any, the sum would be empty and its logarithm would send NaN backwards; such an anchor is not active.
    counted = negatives.valid | ~negatives.valid.any(dim=-1, keepdim=True)
    return (negatives.values / temperature).masked_fill(~counted, -torch.inf).logsumexp(dim=-1, keepdim=True)
