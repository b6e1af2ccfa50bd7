"""The contrast of all branches: from the clips of a batch, or one rank's part of it, and the banks to the losses.

Rows are chosen, compared and made losses of in all branches at once: for a small batch, a step's time is that of its
many small operations, of which one branch alone would need as many. A loss depends on a query through the similarities
to the chosen rows only, and its derivatives by them weigh these rows. So its gradient is computed in the forward pass;
the bank may change before the backward pass.

A bank of usual size is compared with at once. One that is too large for that, or of which every rank keeps a shard, is
compared with block by block. Then every rank compares the clips of all ranks with its own rows, a block of rows at a
time, and keeps the hardest. The ranks exchange these candidates, and each one merges those of its own clips. They
exchange the derivatives, too, and each sums up the gradient from its own rows. All of it happens in the forward pass:
the backward pass, whose order autograd decides, needs no collective.

Shapes: S branches, n clips of this rank, G of all ranks (one process: the same), B rows of a bank, K chosen rows per
clip, R of them random, D dimensions of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from csre.loss import (
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

# Similarities (S, n, B) up to which all of them are computed at once: half a GiB in float32.
_AT_ONCE = 2**27
# Similarities (G, rows of a block) computed at a time: 16 MB in float32, more of which no cache holds.
_BLOCK = 2**22


class Contrasted(NamedTuple):
    """What came of contrasting a batch in one branch.

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
    """The rows that this rank's clips are contrasted with, of all branches.

    Attributes:
        similarity: (S, n, K) without gradient, to the rows of ``choice.joined()``; finite.
        choice: these rows.
    """

    similarity: Tensor
    choice: Choice


def contrast(
    queries: Sequence[Tensor],
    unit_rows: Sequence[Tensor],
    labels: Tensor,
    indices: Tensor,
    banks: Sequence[ClassSortedBank],
    options: ContrastOptions,
    draws: Draws = WHOLE_BATCH,
    ranks: Ranks = ALONE,
) -> list[Contrasted]:
    """Contrast clips with the bank of each branch that they were written to; collective if the banks are sharded.

    Args:
        queries: per branch (n, D) floating, unit rows of this rank's clips, zero for one to ignore; with gradient.
        unit_rows: per branch (G, D), those of all ranks' clips, without gradient.
        labels: (G,) int64, classes of all ranks' clips.
        indices: (G,) int64, their training indices.
        banks: one per branch, built alike; they are read only.
        options: see there.
        draws: where the random rows come from.
        ranks: who brings the clips, each equally many, in rank order.

    Raises:
        CSREError: sharded banks whose shards are not those of ``ranks``.
    """
    shard, own = banks[0].shard, ranks.part(len(queries[0]))
    if shard.ranks > 1 and shard != (ranks.rank, ranks.world):
        raise CSREError(
            f"the bank is shard {shard.rank} of {shard.ranks} but this is rank {ranks.rank} of "
            f"{ranks.world}: build CSRE with shard=(rank, ranks) and call contrast_across_ranks"
        )
    alone = [query.detach() for query in queries]
    # Rankings near similarity 1 and the sums of 1024 exponentials do not survive 8 or 11 bits of mantissa.
    with torch.autocast(queries[0].device.type, enabled=False):
        of_all = [bank.anchors(rows, labels, indices) for bank, rows in zip(banks, unit_rows, strict=True)]
        anchors = Anchors.stacked(of_all)
        if shard.ranks > 1:
            compared = compare_in_blocks(unit_rows, of_all, anchors.part(own), banks, options, draws, ranks)
        elif sum(len(query) * len(bank.rows) for query, bank in zip(queries, banks, strict=True)) > _AT_ONCE:
            of_own = [clips.part(own) for clips in of_all]
            compared = compare_in_blocks(alone, of_own, anchors.part(own), banks, options, draws, ALONE)
        else:
            compared = compare_at_once(alone, anchors.part(own), banks, options, draws)
        losses = losses_of_queries(queries, compared, banks, options, ranks)
        active = active_anchors(anchors, options)
        count = active.sum(dim=1)
        kinds = {
            kind: (ranks.world * mean_over_active(value, active[:, own], count)).unbind()
            for kind, value in mean_similarities(*compared).items()
        }
        return [
            Contrasted(
                ranks.world * mean_over_active(loss, active[place, own], count[place]),
                active[place],
                {kind: values[place] for kind, values in kinds.items()},
            )
            for place, loss in enumerate(losses)
        ]


def compare_at_once(
    queries: Sequence[Tensor], own: Anchors, banks: Sequence[ClassSortedBank], options: ContrastOptions, draws: Draws
) -> Compared:
    """Compare unit rows (n, D) of every branch with its whole bank; ``own`` says where these clips stand in them."""
    similarity = similarities(queries, [bank.rows for bank in banks])
    choice = choose(similarity, own, options, draws)
    return Compared(similarity.gather(-1, choice.joined().rows), choice)


def losses_of_queries(
    queries: Sequence[Tensor],
    compared: Compared,
    banks: Sequence[ClassSortedBank],
    options: ContrastOptions,
    ranks: Ranks = ALONE,
) -> list[Tensor]:
    """Per branch the loss of every clip, (n,), with its gradient to the branch's queries (n, D).

    Collective if the banks are sharded; the backward pass is not.
    """
    losses, slopes = losses_of_choice(*compared, options)
    rows = compared.choice.joined().rows
    gradients = [_gradient(slopes[place], rows[place], bank, ranks) for place, bank in enumerate(banks)]
    return [
        _WithGradient.apply(query, loss, gradient)
        for query, loss, gradient in zip(queries, losses.unbind(), gradients, strict=True)
    ]


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

    @classmethod
    def stacked(cls, branches: Sequence[Candidates]) -> Candidates:
        """Those of all branches, (S, n, K)."""
        return cls(*map(torch.stack, zip(*branches, strict=True)))

    def selection(self) -> Selection:
        """The rows that were met."""
        return Selection(self.rows, self.values.isfinite())


def compare_in_blocks(
    unit_rows: Sequence[Tensor],
    everyone: Sequence[Anchors],
    own: Anchors,
    banks: Sequence[ClassSortedBank],
    options: ContrastOptions,
    draws: Draws,
    ranks: Ranks,
) -> Compared:
    """What ``compare_at_once`` gives; of rows that are equally similar, others may be chosen.

    Args:
        unit_rows: per branch (G, D), those of all ranks' clips.
        everyone: per branch all ranks' clips in the bank, after they were written.
        own: this rank's clips in the banks of all branches.
        banks: one per branch.
        options: see there.
        draws: where the random rows of this rank's clips come from.
        ranks: whose shards make up the banks.
    """
    of_class = random_positives(own, options.positives.random, draws)
    elsewhere = random_negatives(own, options.negatives.random, draws)
    drawn = join(of_class, elsewhere).rows
    found = []
    with torch.no_grad():
        for place, bank in enumerate(banks):
            of_all = ranks.gather(drawn[place])
            found.append(_merge(*_search(unit_rows[place], everyone[place], bank, options, of_all), ranks))
    positives, negatives = Candidates.stacked([p for p, _, _ in found]), Candidates.stacked([n for _, n, _ in found])
    values = torch.stack([of_drawn for _, _, of_drawn in found])

    choice = Choice(join(positives.selection(), of_class), negatives.selection(), elsewhere)
    of_positives, of_negatives = values.split([of_class.rows.shape[-1], elsewhere.rows.shape[-1]], dim=-1)
    similarity = torch.cat([positives.values, of_positives, negatives.values, of_negatives], dim=-1)
    return Compared(similarity.masked_fill(~similarity.isfinite(), 0), choice)


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
    if bank.shard.ranks == 1:
        return weighted_rows(bank.rows, rows, slopes)
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
