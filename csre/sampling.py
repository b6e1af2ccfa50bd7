"""Choosing positives and negatives from a memory bank, for all anchors at once (paper section 3.3, Table 6).

Every function gives a rectangle of rows; ``valid`` says which of them are really there, for a bank that holds fewer
than asked for.

Shapes: N anchors (the clips of a batch), B rows of the bank, K chosen rows per anchor. For the banks of S branches at
once, every tensor has S as its first dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from csre.memory_bank import Anchors, looked_up
from csre.options import ContrastOptions


class Draws(NamedTuple):
    """Where random numbers come from, so that each clip of a global batch gets the same ones wherever it is computed.

    A process that holds the clips from ``start`` on of a batch of ``total`` draws for all of them and keeps its part.
    So ranks whose generators are in the same state draw what one process with the whole batch draws.

    Attributes:
        generator: None for torch's global one of the device. One of another device is drawn from there.
        start: position of the first anchor in the global batch.
        total: clips of the global batch; None if the anchors are all of it.
    """

    generator: torch.Generator | None = None
    start: int = 0
    total: int | None = None

    def rand(self, *shape: int, device: torch.device) -> Tensor:
        """(..., rows, columns) float64, uniform in [0, 1): these rows of the (..., total, columns) numbers."""
        *branches, rows, columns = shape
        total = rows if self.total is None else self.total
        source = device if self.generator is None else self.generator.device
        table = torch.rand(*branches, total, columns, dtype=torch.float64, device=source, generator=self.generator)
        return table[..., self.start : self.start + rows, :].to(device, non_blocking=True)


WHOLE_BATCH = Draws()


class Selection(NamedTuple):
    """Chosen rows per anchor.

    Attributes:
        rows: (N, K) int64, rows of the bank; where not valid, some row of it.
        valid: (N, K) bool.
    """

    rows: Tensor
    valid: Tensor


def join(*selections: Selection) -> Selection:
    """The selections side by side."""
    rows, valid = zip(*selections, strict=True)
    return Selection(torch.cat(rows, dim=-1), torch.cat(valid, dim=-1))


class Choice(NamedTuple):
    """The rows that a batch is contrasted with.

    Attributes:
        positives: the hard ones, then the random ones.
        hard_negatives: hardest first.
        random_negatives: may hold rows that are among the hard ones, too.
    """

    positives: Selection
    hard_negatives: Selection
    random_negatives: Selection

    def joined(self) -> Selection:
        """All of them side by side, (N, K)."""
        return join(*self)


def choose(similarity: Tensor, anchors: Anchors, options: ContrastOptions, draws: Draws = WHOLE_BATCH) -> Choice:
    """Choose rows by the rules and counts of ``options``.

    Args:
        similarity: (N, B) floating, of every anchor with every row.
        anchors: of the same batch and bank, after the batch was written.
        options: see there.
        draws: where the random rows come from.
    """
    own_row = options.own_row == "include"
    return Choice(
        positives=join(
            hardest_positives(similarity, anchors, options.positives.hard, own_row),
            random_positives(anchors, options.positives.random, draws),
        ),
        hard_negatives=hardest_negatives(similarity, anchors, options.negatives.hard),
        random_negatives=random_negatives(anchors, options.negatives.random, draws),
    )


def active_anchors(anchors: Anchors, options: ContrastOptions) -> Tensor:
    """(N,) bool: usable anchors for which the bank holds enough rows of either kind."""
    of_class, elsewhere = anchors.written_in_class, anchors.written_elsewhere
    besides_own = of_class - (anchors.own_row >= 0).long()
    for_hard = of_class if options.own_row == "include" else besides_own
    if options.too_few == "skip":
        enough = (for_hard >= options.positives.hard) & (besides_own >= options.positives.random)
        return anchors.usable & enough & (elsewhere >= max(options.negatives.hard, options.negatives.random))
    most = for_hard if options.positives.hard > 0 else besides_own
    return anchors.usable & (most > 0) & (elsewhere > 0)


def hardest_positives(similarity: Tensor, anchors: Anchors, count: int, own_row: bool) -> Selection:
    """The ``count`` written rows of the anchor's class that are least similar to it, hardest first.

    Args:
        similarity: (N, B) floating, finite.
        anchors: of the same batch and bank.
        count: how many.
        own_row: whether the anchor's own row may be among them.
    """
    rows, inside = _class_rows(anchors)
    allowed = inside & looked_up(anchors.written, rows)
    if not own_row:
        allowed = allowed & (rows != anchors.own_row[..., None])
    ranking = similarity.gather(-1, rows).masked_fill(~allowed, torch.inf)
    hardest = ranking.topk(min(count, anchors.longest_class), largest=False)
    return Selection(rows.gather(-1, hardest.indices), hardest.values < torch.inf)


def hardest_negatives(similarity: Tensor, anchors: Anchors, count: int) -> Selection:
    """The ``count`` written rows of other classes that are most similar to the anchor, hardest first.

    Arguments as of ``hardest_positives``.
    """
    own_class, _ = _class_rows(anchors)
    unwritten = similarity.new_zeros(anchors.written.shape).masked_fill_(~anchors.written, -torch.inf)
    ranking = (similarity + unwritten[..., None, :]).scatter_(-1, own_class, -torch.inf)
    hardest = ranking.topk(min(count, similarity.shape[-1]))
    return Selection(hardest.indices, hardest.values > -torch.inf)


def random_positives(anchors: Anchors, count: int, draws: Draws = WHOLE_BATCH) -> Selection:
    """``count`` written rows of the anchor's class except its own, uniformly without replacement, in no fixed order."""
    if count == 0:
        return _nothing(anchors)
    own_rank = looked_up(anchors.written_up_to, anchors.own_row.clamp(min=0)) - 1
    has_own = anchors.own_row >= 0
    available = anchors.written_in_class - has_own.long()
    draw, valid = draw_without_replacement(available, min(count, anchors.longest_class), draws)
    rank = draw + anchors.written_before_class[..., None]
    rank = rank + (has_own[..., None] & (rank >= own_rank[..., None]))  # steps over the own row
    return Selection(anchors.written_rows(rank), valid)


def random_negatives(anchors: Anchors, count: int, draws: Draws = WHOLE_BATCH) -> Selection:
    """``count`` written rows of other classes, uniformly without replacement, in no fixed order."""
    if count == 0:
        return _nothing(anchors)
    draw, valid = draw_without_replacement(anchors.written_elsewhere, min(count, anchors.written.shape[-1]), draws)
    behind = draw >= anchors.written_before_class[..., None]
    rank = draw + behind * anchors.written_in_class[..., None]  # steps over the anchor's class
    return Selection(anchors.written_rows(rank), valid)


def _nothing(anchors: Anchors) -> Selection:
    rows = anchors.own_row[..., None][..., :0]
    return Selection(rows, rows >= 0)


def without_repeats(selection: Selection, other: Selection) -> Selection:
    """``selection`` less the rows that ``other`` holds for the same anchor."""
    if other.rows.shape[-1] == 0:
        return selection
    held = other.rows.masked_fill(~other.valid, -1).sort().values
    place = torch.searchsorted(held, selection.rows).clamp(max=held.shape[-1] - 1)
    return Selection(selection.rows, selection.valid & (held.gather(-1, place) != selection.rows))


def draw_without_replacement(available: Tensor, count: int, draws: Draws = WHOLE_BATCH) -> tuple[Tensor, Tensor]:
    """For every entry n of ``available`` a uniformly random subset of ``count`` numbers from 0 to available[n] - 1.

    This is Floyd's method (Bentley and Floyd, Communications of the ACM 30(9), 1987), whose work depends on ``count``
    only, with all its steps taken at once. Step s draws a number from 0 to ``top``, where top = available - count + s.
    If the subset already has that number, it takes ``top`` instead. It has it if an earlier step drew the same, or if
    the number is the ``top`` of an earlier step that itself had to take its top. The latter links steps to chains,
    which are followed by doubling.

    Args:
        available: (N,) int64, 0 or more.
        count: K, how many to draw.
        draws: where the random numbers come from.

    Returns:
        The numbers (N, K) int64, and (N, K) bool: which of them count. Where fewer than ``count`` are available, all of
        them are drawn; the rest is not valid and holds 0.
    """
    step = torch.arange(count, device=available.device)
    lowest_top = available[..., None] - count
    top = lowest_top + step
    valid = top >= 0
    chance = draws.rand(*top.shape, device=available.device)
    # What is not valid draws a number of its own, so that it repeats nobody's.
    draw = torch.where(valid, (chance * (top + 1)).long(), top)

    ordered = draw.sort(stable=True)
    repeats_in_order = torch.zeros_like(valid)
    repeats_in_order[..., 1:] = ordered.values[..., 1:] == ordered.values[..., :-1]
    takes_top = torch.zeros_like(valid).scatter(-1, ordered.indices, repeats_in_order)

    # The step whose top was drawn; one that links to nobody, itself; one that takes its top, the place behind the last.
    linked_step = draw - lowest_top  # negative if the number is nobody's top
    link = torch.where(linked_step >= 0, linked_step, step).masked_fill(takes_top, count)
    link = functional.pad(link, (0, 1), value=count)
    for _ in range(max(count - 1, 0).bit_length()):
        link = link.gather(-1, link)
    return torch.where(link[..., :-1] == count, top, draw).clamp(min=0), valid


def _class_rows(anchors: Anchors) -> tuple[Tensor, Tensor]:
    """The rows of every anchor's class, padded to the longest class with its last row, and which are no padding."""
    offset = torch.arange(anchors.longest_class, device=anchors.first_row.device)
    num_rows = anchors.num_rows[..., None]
    return anchors.first_row[..., None] + torch.minimum(offset, num_rows - 1), offset < num_rows
