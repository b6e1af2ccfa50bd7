"""One branch's contrast: from the clips of a batch, or one rank's part of it, and a bank to a loss.

Shapes: n clips of this rank, G of all ranks (one process: the same), B rows of the bank, D dimensions of a feature.
"""

from __future__ import annotations

import torch
from torch import Tensor

from csre.blockwise import contrast_in_blocks
from csre.choice import active_anchors, choose, losses_of_choice
from csre.collectives import ALONE, Ranks
from csre.errors import CSREError
from csre.loss import mean_over_active
from csre.memory_bank import ClassSortedBank
from csre.options import ContrastOptions
from csre.sampling import WHOLE_BATCH, Draws
from csre.similarity import chosen_similarities, similarities

# Similarities (n, B) up to which all of them are computed at once: half a GiB in float32.
_AT_ONCE = 2**27


def contrast(
    query: Tensor,
    labels: Tensor,
    indices: Tensor,
    bank: ClassSortedBank,
    options: ContrastOptions,
    draws: Draws = WHOLE_BATCH,
    ranks: Ranks = ALONE,
    unit_rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Contrast clips with the bank that they were written to; collective if the bank is sharded.

    Args:
        query: (n, D) floating, unit rows of this rank's clips, zero for one to leave out; with gradient.
        labels: (G,) int64, classes of all ranks' clips.
        indices: (G,) int64, their training indices.
        bank: it is read only.
        options: see there.
        draws: where the random rows come from.
        ranks: who brings the clips, each equally many, in rank order.
        unit_rows: (G, D) unit rows of all ranks' clips; None if there are no others than ``query``.

    Returns:
        A loss, a scalar, whose mean over the ranks is the mean over the active clips of all ranks, and which clips are
        active, (G,) bool.

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
            losses = contrast_in_blocks(query, unit_rows, everyone, bank, options, draws, ranks)
        elif len(query) * len(bank.rows) > _AT_ONCE:
            losses = contrast_in_blocks(query, query.detach(), everyone.part(own), bank, options, draws, ALONE)
        else:
            similarity = similarities(query, bank.rows)
            choice = choose(similarity, everyone.part(own), options, draws)
            losses = losses_of_choice(
                chosen_similarities(query, similarity, choice.joined().rows, bank.rows), choice, options
            )
        active = active_anchors(everyone, options)
        return ranks.world * mean_over_active(losses, active[own], among=active.sum()), active
