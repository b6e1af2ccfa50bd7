"""Unit features and their cosine similarities to the rows of a memory bank (paper section 3.3, the Sim of eq. 8 and 9).

All of it is computed in the query's dtype, float32 or float64, however the bank is stored.

Shapes: N anchors (the clips of a batch), B rows of the bank, K chosen rows per anchor, D dimensions of a feature.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from csre.errors import CSREError

# Rows converted at a time when the bank is stored in another dtype than the query: bounds the copy to a few MB.
_BLOCK = 8192


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
    if bank_rows.dtype == query.dtype:
        return query @ bank_rows.T
    return torch.cat([query @ block.to(query.dtype).T for block in bank_rows.split(_BLOCK)], dim=1)


def chosen_similarities(query: Tensor, similarity: Tensor, chosen: Tensor, bank_rows: Tensor) -> Tensor:
    """The entries of ``similarities(query, bank_rows)`` at the chosen rows, with their gradient to the query.

    Args:
        query: (N, D) float32 or float64.
        similarity: (N, B), what ``similarities`` gave for it.
        chosen: (N, K) int64, rows of the bank.
        bank_rows: (B, D). They get no gradient.

    Returns:
        (N, K) in the query's dtype.

    Raises:
        CSREError: in the backward pass, if the bank was written in between.
    """
    return _ChosenSimilarities.apply(query, similarity, chosen, bank_rows)


class _ChosenSimilarities(torch.autograd.Function):
    """``similarity.gather(1, chosen)`` that differentiates as products of the query with these rows.

    The gradient to query n is the sum over k of grad[n, k] * bank_rows[chosen[n, k]]. Summing it straight out of the
    bank costs neither a copy of all chosen rows (N, K, D) nor a gradient over the whole bank (N, B).
    """

    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, similarity: Tensor, chosen: Tensor, bank_rows: Tensor) -> Tensor:
        ctx.save_for_backward(chosen, bank_rows)
        return similarity.gather(1, chosen)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        try:
            chosen, bank_rows = ctx.saved_tensors
        except RuntimeError as error:
            raise CSREError(
                "the memory bank was written again before the losses of an earlier batch were differentiated: "
                "call backward() on a batch's losses before CSRE sees the next batch"
            ) from error
        return weighted_rows(bank_rows, chosen, grad), None, None, None


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
