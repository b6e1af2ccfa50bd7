"""Which rows of a bank a batch is contrasted with, and the losses as a function of their similarities.

Shapes: N anchors (the clips of a batch), B rows of the bank, K chosen rows per anchor.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from csre.anchors import Anchors
from csre.loss import Scores, info_nce
from csre.options import ContrastOptions
from csre.sampling import (
    WHOLE_BATCH,
    Draws,
    Selection,
    hardest_negatives,
    hardest_positives,
    join,
    random_negatives,
    random_positives,
    without_repeats,
)


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

    def joined(self) -> Selection:
        """All of them side by side, (N, K)."""
        return join(self.positives, join(self.hard_negatives, self.random_negatives))


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
        active=active_anchors(anchors, options),
    )


def active_anchors(anchors: Anchors, options: ContrastOptions) -> Tensor:
    """(N,) bool: usable anchors for which the bank holds enough rows of either kind."""
    of_class, elsewhere = anchors.written_in_class(), anchors.written_elsewhere()
    besides_own = of_class - (anchors.own_row >= 0).long()
    for_hard = of_class if options.own_row == "include" else besides_own
    if options.too_few == "skip":
        enough = (for_hard >= options.positives.hard) & (besides_own >= options.positives.random)
        return anchors.usable & enough & (elsewhere >= max(options.negatives.hard, options.negatives.random))
    most = for_hard if options.positives.hard > 0 else besides_own
    return anchors.usable & (most > 0) & (elsewhere > 0)


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
    widths = [part.rows.shape[1] for part in (choice.positives, hard, random)]
    valid = choice._replace(random_negatives=random).joined().valid
    positives, *denominators = map(Scores, similarity.split(widths, dim=1), valid.split(widths, dim=1))
    if options.denominator == "joint":
        denominators = [Scores(similarity[:, widths[0] :], valid[:, widths[0] :])]
    # A rule whose count is 0 has no denominator.
    denominators = [scores for scores in denominators if scores.values.shape[1] > 0]
    return info_nce(positives, denominators, options.temperature, options.positive_reduction)
