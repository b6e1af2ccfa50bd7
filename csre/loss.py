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
def similarities(queries: Sequence[Tensor], bank_rows: Sequence[Tensor]) -> Tensor:
    """Cosine of every unit query (N, D) of a branch with every unit row (B, D) of its bank.

    Returns:
        (S, N, B) in the queries' dtype, without gradient.
    """
    found = queries[0].new_empty(len(queries), len(queries[0]), len(bank_rows[0]))
    size = _CPU_BLOCK if found.device.type == "cpu" else _BLOCK
    for query, rows, of_branch in zip(queries, bank_rows, found, strict=True):
        for block, part in zip(rows.split(size), of_branch.split(size, dim=1), strict=True):
            torch.mm(query, block.to(query.dtype).T, out=part)
    return found


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


def losses_of_choice(similarity: Tensor, choice: Choice, options: ContrastOptions) -> tuple[Tensor, Tensor]:
    """The loss of every anchor, (N,), and its derivatives by its similarities, (N, K).

    Both are finite also for an anchor that is not active, where they mean nothing.

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


def info_nce(
    positives: Cosines, denominators: Sequence[Cosines], temperature: float, reduction: str
) -> tuple[Tensor, Tensor]:
    """Loss of every anchor, and its derivatives.

    With S the cosines and tau the temperature, a positive p against the negatives K of one denominator costs
    -log( exp(S_p/tau) / (exp(S_p/tau) + sum over k in K of exp(S_k/tau)) ). With Z the logarithm of the sum over K,
    that is -log sigmoid(S_p/tau - Z). The costs are summed or averaged over the positives of the anchor and averaged
    over its denominators.

    Args:
        positives: (N, P).
        denominators: one or more (N, K); each is a set of negatives of its own.
        temperature: tau, above 0.
        reduction: ``mean`` or ``sum`` over the positives.

    Returns:
        The losses (N,), and their derivatives by all cosines side by side, (N, P + K + ...), 0 for what does not count.
        Both are finite also for an anchor without positives or negatives, where they mean nothing.
    """
    weight = positives.valid.to(positives.values.dtype) / len(denominators)
    if reduction == "mean":
        weight = weight / positives.valid.sum(dim=-1, keepdim=True).clamp(min=1)
    scaled = positives.values / temperature
    losses = scaled.new_zeros(scaled.shape[:-1])
    slopes = [torch.zeros_like(scaled)]
    for negatives in denominators:
        # Without any, the sum would be empty and its logarithm infinite; such an anchor is not active.
        counted = negatives.valid | ~negatives.valid.any(dim=-1, keepdim=True)
        logits = (negatives.values / temperature).masked_fill(~counted, -torch.inf)
        total = logits.logsumexp(dim=-1, keepdim=True)
        losses = losses - (weight * F.logsigmoid(scaled - total)).sum(dim=-1)
        pull = weight * torch.sigmoid(total - scaled) / temperature
        slopes[0] = slopes[0] - pull
        slopes.append(pull.sum(dim=-1, keepdim=True) * (logits - total).exp())
    return losses, torch.cat(slopes, dim=-1)


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
