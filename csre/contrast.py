"""One branch's contrast: choose rows of the bank for a batch, and turn their similarities into a loss.

Shapes: N anchors (the clips of a batch), B rows of the bank, D dimensions of a feature.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from csre.loss import Scores, info_nce, mean_over_active
from csre.memory_bank import Anchors, ClassSortedBank
from csre.options import ContrastOptions
from csre.sampling import (
    Selection,
    hardest_negatives,
    hardest_positives,
    join,
    random_negatives,
    random_positives,
    without_repeats,
)
from csre.similarity import chosen_similarities, similarities


class Choice(NamedTuple):
    """The rows that a batch is contrasted with, and the anchors for which there are enough of them.

    Attributes:
        positives: the hard ones, then the random ones.
        hard_negatives: hardest first.
        random_negatives: may hold rows that are among the hard ones, too.
        active: (N,) bool.
    """

    positives: Selection
    hard_negatives: Selection
    random_negatives: Selection
    active: Tensor


def choose(similarity: Tensor, anchors: Anchors, options: ContrastOptions) -> Choice:
    """Choose rows by the rules and counts of ``options``.

    Args:
        similarity: (N, B) floating, of every anchor with every row.
        anchors: of the same batch and bank, after the batch was written.
        options: see there.
    """
    own_row = options.own_row == "include"
    return Choice(
        positives=join(
            hardest_positives(similarity, anchors, options.positives.hard, own_row),
            random_positives(anchors, options.positives.random),
        ),
        hard_negatives=hardest_negatives(similarity, anchors, options.negatives.hard),
        random_negatives=random_negatives(anchors, options.negatives.random),
        active=_active(anchors, options),
    )


def contrastive_loss(
    query: Tensor, similarity: Tensor, bank_rows: Tensor, choice: Choice, options: ContrastOptions
) -> Tensor:
    """Mean loss of the active anchors, a scalar; a differentiable zero if there is none.

    Args:
        query: (N, D) floating, unit rows; the only argument that gets a gradient.
        similarity: (N, B), of the query with all rows.
        bank_rows: (B, D).
        choice: what to contrast with.
        options: see there.
    """
    hard, random = choice.hard_negatives, choice.random_negatives
    if options.repeated_negatives == "once":
        random = without_repeats(random, hard)
    chosen = join(choice.positives, join(hard, random))
    values = chosen_similarities(query, similarity, chosen.rows, bank_rows)
    widths = [part.rows.shape[1] for part in (choice.positives, hard, random)]
    positives, *denominators = map(Scores, values.split(widths, dim=1), chosen.valid.split(widths, dim=1))
    if options.denominator == "joint":
        denominators = [Scores(values[:, widths[0] :], chosen.valid[:, widths[0] :])]
    # A rule whose count is 0 has no denominator.
    denominators = [scores for scores in denominators if scores.values.shape[1] > 0]
    per_anchor = info_nce(positives, denominators, options.temperature, options.positive_reduction)
    return mean_over_active(per_anchor, choice.active)


def contrast(
    query: Tensor, labels: Tensor, indices: Tensor, bank: ClassSortedBank, options: ContrastOptions
) -> tuple[Tensor, Tensor]:
    """Contrast a batch with the bank that it was written to.

    Args:
        query: (N, D) floating, unit rows, zero for an anchor to leave out.
        labels: (N,) int64, classes.
        indices: (N,) int64, training indices.
        bank: it is read only.
        options: see there.

    Returns:
        The loss, a scalar, and which anchors it is the mean of, (N,) bool.
    """
    similarity = similarities(query, bank.rows)
    choice = choose(similarity, bank.anchors(query, labels, indices), options)
    return contrastive_loss(query, similarity, bank.rows, choice, options), choice.active


def _active(anchors: Anchors, options: ContrastOptions) -> Tensor:
    """(N,) bool: usable anchors for which the bank holds enough rows of either kind."""
    of_class, elsewhere = anchors.written_in_class(), anchors.written_elsewhere()
    besides_own = of_class - (anchors.own_row >= 0).long()
    for_hard = of_class if options.own_row == "include" else besides_own
    if options.too_few == "skip":
        enough = (for_hard >= options.positives.hard) & (besides_own >= options.positives.random)
        return anchors.usable & enough & (elsewhere >= max(options.negatives.hard, options.negatives.random))
    most = for_hard if options.positives.hard > 0 else besides_own
    return anchors.usable & (most > 0) & (elsewhere > 0)
