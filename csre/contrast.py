"""One branch's contrast: from the clips of a batch, or one rank's part of it, and a bank to a loss.

A bank of usual size is compared with at once. One that is too large for that, or of which every rank keeps a shard, is
compared with block by block. Then every rank compares the clips of all ranks with its own rows, a block of rows at a
time, and keeps the hardest. The ranks exchange these candidates, and each one merges those of its own clips. A loss
depends on the bank through the similarities to the chosen rows only. So its derivatives by them are known at once; the
ranks exchange these, too, and each sums up the gradient from its own rows. All of it happens in the forward pass: the
backward pass, whose order autograd decides, needs no collective.

Shapes: n clips of this rank, G of all ranks (one process: the same), B rows of the bank, K chosen rows per clip, R of
them random, D dimensions of a feature.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from csre.loss import (
    chosen_similarities,
    losses_of_choice,
    mean_over_active,
    mean_similarities,
    similarities,
    weighted_rows,
)
from csre.memory_bank import Anchors, ClassSortedBank
from csre.options import ContrastOptions, CSREError
from csre.ranks import ALONE, Ranks
from csre.sampling import (
    WHOLE_BATCH,
    Choice,
    Draws,
    Selection,
    active_anchors,
    choose,
    join,
    random_negatives,
    random_positives,
)

# Similarities (n, B) up to which all of them are computed at once: half a GiB in float32.
_AT_ONCE = 2**27
# Similarities (G, rows of a block) computed at a time: 16 MB in float32, more of which no cache holds.
_BLOCK = 2**22


class Contrasted(NamedTuple):
    """What came of contrasting a batch.

    Attributes:
        loss: scalar; its mean over the ranks is the mean over the active clips of all ranks.
        active: (G,) bool, clips that had something to be contrasted with.
        similarity: the mean cosine to the ``positives``, ``hard_negatives`` and ``random_negatives`` that were chosen,
            scalars without gradient, averaged as the loss is: over the rows of a clip, then over the active clips.
    """

    loss: Tensor
    active: Tensor
    similarity: dict[str, Tensor]


class Compared(NamedTuple):
    """This rank's clips and the rows they are contrasted with.

    Attributes:
        losses: (n,) with gradient to the query; finite also for a clip that is not active, where it means nothing.
        similarity: (n, K) without gradient, to the rows of ``choice.joined()``; finite.
        choice: these rows.
    """

    losses: Tensor
    similarity: Tensor
    choice: Choice


def contrast(
    query: Tensor,
    labels: Tensor,
    indices: Tensor,
    bank: ClassSortedBank,
    options: ContrastOptions,
    draws: Draws = WHOLE_BATCH,
    ranks: Ranks = ALONE,
    unit_rows: Tensor | None = None,
) -> Contrasted:
    """Contrast clips with the bank that they were written to; collective if the bank is sharded.

    Args:
        query: (n, D) floating, unit rows of this rank's clips, zero for one to ignore; with gradient.
        labels: (G,) int64, classes of all ranks' clips.
        indices: (G,) int64, their training indices.
        bank: it is read only.
        options: see there.
        draws: where the random rows come from.
        ranks: who brings the clips, each equally many, in rank order.
        unit_rows: (G, D) unit rows of all ranks' clips; None if there are no others than ``query``.

    Raises:
        CSREError: a sharded bank whose shards are not those of ``ranks``.
    """
    if bank.shard.ranks > 1 and bank.shard != (ranks.rank, ranks.world):
        raise CSREError(
            f"the bank is shard {bank.shard.rank} of {bank.shard.ranks} but this is rank {ranks.rank} of "
            f"{ranks.world}: build CSRE with shard=(rank, ranks) and call contrast_across_ranks"
        )
    unit_rows = query.detach() if unit_rows is None else unit_rows
    # Rankings near similarity 1 and the sums of 1024 exponentials do not survive 8 or 11 bits of mantissa.
    with torch.autocast(query.device.type, enabled=False):
        everyone = bank.anchors(unit_rows, labels, indices)
        own = ranks.part(len(query))
        if bank.shard.ranks > 1:
            compared = contrast_in_blocks(query, unit_rows, everyone, bank, options, draws, ranks)
        elif len(query) * len(bank.rows) > _AT_ONCE:
            compared = contrast_in_blocks(query, query.detach(), everyone.part(own), bank, options, draws, ALONE)
        else:
            compared = contrast_at_once(query, everyone.part(own), bank, options, draws)
        active = active_anchors(everyone, options)

        def mean(per_clip: Tensor) -> Tensor:
            return ranks.world * mean_over_active(per_clip, active[own], among=active.sum())

        similarity = mean_similarities(compared.similarity, compared.choice)
        return Contrasted(mean(compared.losses), active, {kind: mean(value) for kind, value in similarity.items()})


def contrast_at_once(
    query: Tensor, own: Anchors, bank: ClassSortedBank, options: ContrastOptions, draws: Draws
) -> Compared:
    """Compare unit rows (n, D) with the whole bank; ``own`` says where these clips stand in it."""
    similarity = similarities(query, bank.rows)
    choice = choose(similarity, own, options, draws)
    values = chosen_similarities(query, similarity, choice.joined().rows, bank.rows)
    return Compared(losses_of_choice(values, choice, options), values.detach(), choice)


class Candidates(NamedTuple):
    """The hardest rows that were met so far, hardest first.

    Attributes:
        values: (G, K) floating, their similarities; infinite where fewer than K were met.
        rows: (G, K) int64, rows of the bank; 0 where fewer were met.
    """

    values: Tensor
    rows: Tensor

    @classmethod
    def none(cls, clips: Tensor, count: int, worst: float) -> Candidates:
        """No rows yet for these (G, D) clips; ``worst`` is the infinity that anything is harder than."""
        values = clips.new_full((len(clips), count), worst)
        return cls(values, torch.zeros_like(values, dtype=torch.int64))

    def selection(self) -> Selection:
        """The rows that were met."""
        return Selection(self.rows, self.values.isfinite())


def contrast_in_blocks(
    query: Tensor,
    unit_rows: Tensor,
    everyone: Anchors,
    bank: ClassSortedBank,
    options: ContrastOptions,
    draws: Draws,
    ranks: Ranks,
) -> Compared:
    """What ``contrast_at_once`` gives; of rows that are equally similar, others may be chosen.

    Args:
        query: (n, D) floating, unit rows of this rank's clips; the only argument that gets a gradient.
        unit_rows: (G, D), those of all ranks' clips.
        everyone: all ranks' clips in the bank, after they were written.
        bank: it is read only.
        options: see there.
        draws: where the random rows of this rank's clips come from.
        ranks: whose shards make up the bank.
    """
    own = everyone.part(ranks.part(len(query)))
    of_class, elsewhere = (
        random_positives(own, options.positives.random, draws),
        random_negatives(own, options.negatives.random, draws),
    )
    drawn = ranks.gather(join(of_class, elsewhere).rows)
    with torch.no_grad():
        positives, negatives, values = _merge(*_search(unit_rows, everyone, bank, options, drawn), ranks)

    choice = Choice(
        join(positives.selection(), of_class), negatives.selection(), elsewhere, active_anchors(own, options)
    )
    of_positives, of_negatives = values.split([of_class.rows.shape[1], elsewhere.rows.shape[1]], dim=1)
    similarity = torch.cat([positives.values, of_positives, negatives.values, of_negatives], dim=1)
    similarity = similarity.masked_fill(~similarity.isfinite(), 0)
    with torch.enable_grad():
        similarity.requires_grad_()
        losses = losses_of_choice(similarity, choice, options)
        (slopes,) = torch.autograd.grad(losses.sum(), similarity)
    gradient = _gradient(slopes, choice.joined().rows, bank, ranks)
    return Compared(_WithGradient.apply(query, losses.detach(), gradient), similarity.detach(), choice)


def _search(
    unit_rows: Tensor, everyone: Anchors, bank: ClassSortedBank, options: ContrastOptions, drawn: Tensor
) -> tuple[Candidates, Candidates, Tensor]:
    """Among the rows that this rank keeps: hardest positives, hardest negatives, and the similarities to ``drawn``.

    The latter are (G, R) as ``drawn`` is, 0 for a row that another rank keeps.
    """
    positives = Candidates.none(unit_rows, min(options.positives.hard, everyone.longest_class), torch.inf)
    negatives = Candidates.none(unit_rows, min(options.negatives.hard, len(everyone.written)), -torch.inf)
    values = torch.zeros_like(drawn, dtype=unit_rows.dtype)
    first, last = everyone.first_row[:, None], (everyone.first_row + everyone.num_rows - 1)[:, None]
    excluded = -1 if options.own_row == "include" else everyone.own_row[:, None]

    start = bank.start
    for block in bank.rows.split(max(1, _BLOCK // len(unit_rows))):
        similarity = unit_rows @ block.to(unit_rows.dtype).T
        place = drawn - start
        here = (place >= 0) & (place < len(block))
        values = torch.where(here, similarity.gather(1, place.clamp(0, len(block) - 1)), values)
        rows = torch.arange(start, start + len(block), device=block.device)
        of_class = (rows >= first) & (rows <= last)
        unwritten = ~everyone.written[start : start + len(block)]
        unfit = ~of_class | unwritten | (rows == excluded)
        positives = _harder(positives, similarity.masked_fill(unfit, torch.inf), start, largest=False)
        negatives = _harder(negatives, similarity.masked_fill_(of_class | unwritten, -torch.inf), start, largest=True)
        start += len(block)
    return positives, negatives, values


def _harder(held: Candidates, similarity: Tensor, start: int, largest: bool) -> Candidates:
    """The hardest of ``held`` and of the rows from ``start`` on, whose similarities (G, rows) are given."""
    count = held.rows.shape[1]
    met = similarity.topk(min(count, similarity.shape[1]), dim=1, largest=largest)
    values = torch.cat([held.values, met.values], dim=1)
    rows = torch.cat([held.rows, met.indices + start], dim=1)
    hardest = values.topk(count, dim=1, largest=largest)
    return Candidates(hardest.values, rows.gather(1, hardest.indices))


def _merge(
    positives: Candidates, negatives: Candidates, values: Tensor, ranks: Ranks
) -> tuple[Candidates, Candidates, Tensor]:
    """What all ranks found (G, K) and (G, R), merged for this rank's clips, (n, K) and (n, R)."""
    if ranks.world == 1:
        return positives, negatives, values
    widths = [positives.rows.shape[1], negatives.rows.shape[1], values.shape[1]]
    similarity = ranks.exchange(torch.cat([positives.values, negatives.values, values], dim=1)).split(widths, dim=2)
    rows = ranks.exchange(torch.cat([positives.rows, negatives.rows], dim=1)).split(widths[:2], dim=2)
    return (
        _hardest(similarity[0], rows[0], largest=False),
        _hardest(similarity[1], rows[1], largest=True),
        similarity[2].sum(dim=0),  # all but the rank that keeps a row bring 0
    )


def _hardest(values: Tensor, rows: Tensor, largest: bool) -> Candidates:
    """The K hardest of the (W, n, K) of all ranks, (n, K)."""
    hardest = values.transpose(0, 1).flatten(1).topk(values.shape[2], dim=1, largest=largest)
    return Candidates(hardest.values, rows.transpose(0, 1).flatten(1).gather(1, hardest.indices))


def _gradient(slopes: Tensor, rows: Tensor, bank: ClassSortedBank, ranks: Ranks) -> Tensor:
    """Sum over k of slopes[i, k] * row number rows[i, k] of the bank, for this rank's clips, (n, D)."""
    place, kept = bank.kept(ranks.gather(rows))
    weights = torch.where(kept, ranks.gather(slopes), 0)
    return ranks.exchange(weighted_rows(bank.rows, place, weights)).sum(dim=0)


class _WithGradient(torch.autograd.Function):
    """``losses`` (n,) as a function of ``query`` (n, D), loss i having the known gradient[i] to query i."""

    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return losses.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad[:, None] * gradient, None, None
