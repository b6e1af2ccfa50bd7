"""The contrast of one branch as a plain loop over the clips of a batch: the readable statement of the loss.

It is far slower than ``csre.contrast`` and sorts the whole bank for every clip. Tests compare the two, and so does the
benchmark of a CSRE step.

Shapes: N anchors (the clips of a batch), L slots (one per training index, in their order), D dimensions of a feature.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from csre.options import ContrastOptions


def reference_contrast(
    features: Tensor,
    labels: Tensor,
    indices: Tensor,
    bank: Tensor,
    written: Tensor,
    slot_labels: Tensor,
    options: ContrastOptions,
    random_positives: Sequence[Sequence[int]] | None = None,
    random_negatives: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, list[int]]:
    """Write a batch into a bank and contrast it with it.

    Args:
        features: (N, D) floating, not normalised, no zero row.
        labels: (N,) int64, classes.
        indices: (N,) int64, slots.
        bank: (L, D) floating unit rows, written in place.
        written: (L,) bool, written in place.
        slot_labels: (L,) int64.
        options: see there.
        random_positives: per anchor the slots of its random positives; None: drawn by Python's ``random``.
        random_negatives: likewise.

    Returns:
        The mean loss of the active anchors, a scalar that differentiates to ``features`` only (before the bank is
        written again), and the positions of these anchors in the batch.
    """
    query = features / features.norm(dim=1, keepdim=True)
    for unit_row, index in zip(query.detach(), indices.tolist(), strict=True):
        bank[index] = unit_row
        written[index] = True
    similarity = query @ bank.T

    losses, active = [], []
    for position, (row, label, index) in enumerate(zip(similarity, labels, indices.tolist(), strict=True)):
        positives = (written & (slot_labels == label)).nonzero().flatten()
        negatives = (written & (slot_labels != label)).nonzero().flatten()
        others = positives[positives != index]
        candidates = positives if options.own_row == "include" else others

        if options.too_few == "skip" and (
            len(candidates) < options.positives.hard
            or len(others) < options.positives.random
            or len(negatives) < max(options.negatives.hard, options.negatives.random)
        ):
            continue

        hard_p = candidates[row[candidates].argsort()[: options.positives.hard]]
        hard_n = negatives[row[negatives].argsort(descending=True)[: options.negatives.hard]]
        random_p = _drawn(others, options.positives.random, random_positives, position)
        random_n = _drawn(negatives, options.negatives.random, random_negatives, position)
        chosen = torch.cat([hard_p, random_p])
        if len(chosen) == 0 or len(hard_n) + len(random_n) == 0:
            continue

        if options.repeated_negatives == "once":
            random_n = random_n[~torch.isin(random_n, hard_n)]
        groups = [torch.cat([hard_n, random_n])] if options.denominator == "joint" else [hard_n, random_n]
        costs = [_cross_entropy_rows(row[chosen], row[group], options.temperature) for group in groups if len(group)]
        cost = torch.stack(costs).mean(dim=0)
        losses.append(cost.sum() if options.positive_reduction == "sum" else cost.mean())
        active.append(position)
    return (torch.stack(losses).mean() if losses else 0 * features.sum()), active


def _cross_entropy_rows(positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """For every positive (P,) the cross entropy of the logits [positive, all negatives (K,)] / tau with target 0."""
    logits = torch.cat([positives[:, None], negatives.expand(len(positives), -1)], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(positives), dtype=torch.int64), reduction="none")


def _drawn(slots: Tensor, count: int, given: Sequence[Sequence[int]] | None, position: int) -> Tensor:
    if given is not None:
        return torch.tensor(given[position], dtype=torch.int64)
    return torch.tensor(random.sample(slots.tolist(), min(count, len(slots))), dtype=torch.int64)
