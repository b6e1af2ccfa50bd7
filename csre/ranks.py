"""The contrast of a distributed run: every rank brings some clips of a global batch, and all of them meet every bank.

The banks stay bit-identical on all ranks. Averaged over the ranks, as DistributedDataParallel averages gradients, the
losses and their gradients are those of one process with the global batch.

Shapes: W ranks, n clips on each of them, G = W * n clips of the global batch, D dimensions of a feature.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from csre.collectives import Ranks
from csre.contrast import contrast
from csre.memory_bank import ClassSortedBank, Shard
from csre.module import CSRE, check_shapes
from csre.sampling import Draws


def contrast_across_ranks(
    csre: CSRE,
    queries: dict[str, Tensor],
    labels: Tensor,
    indices: Tensor,
    group: dist.ProcessGroup | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Write the clips of all ranks to every bank and contrast this rank's own; collective.

    In a training loop, where ``model`` is DistributedDataParallel over the encoder and ``csre.project``::

        logits, queries = model(x)
        losses = contrast_across_ranks(csre, queries, labels, indices)
        (cross_entropy(logits, labels) + sum(losses.values())).backward()

    Keep the banks out of what DistributedDataParallel wraps, or it sends them to all ranks in every step. There is no
    collective in the backward pass. Without a process group, or with one rank, this is ``csre.write`` and
    ``csre.contrast``.

    Args:
        csre: built alike on all ranks.
        queries: per branch what ``csre.project`` gave for this rank's clips, (n, D) with gradient.
        labels: (n,) int64, classes of this rank's clips.
        indices: (n,) int64, their training indices.
        group: the ranks; None for the default group.
        generator: where random rows are drawn from; None for torch's global generator of the device. In the same state
            on all ranks they draw what one process draws for the global batch.

    Returns:
        Per branch this rank's part of the weighted loss, a scalar: its mean over the ranks is the loss of the global
        batch. ``csre.active_share`` is that of the global batch.

    Raises:
        CSREError: as ``csre.write``, on all ranks alike where the values of another rank are at fault. For tensors on
            the CPU also ranks with unequal numbers of clips; elsewhere looking would stop the device.
    """
    ranks = Ranks.of(group)
    check_shapes(len(next(iter(queries.values()))), labels, indices)
    if indices.device.type == "cpu":
        ranks.check_equal("clips", len(indices))
    unit_rows = _gather_branches(ranks, queries)
    all_labels, all_indices = ranks.gather(torch.stack([labels, indices], dim=1)).unbind(dim=1)
    csre.write(unit_rows, all_labels, all_indices)

    draws = Draws(generator, ranks.part(len(indices)).start, len(all_indices))
    losses = {}
    for name, query in queries.items():
        bank = cast("ClassSortedBank", csre.banks[name])
        loss, active = contrast(query, all_labels, all_indices, bank, csre.options, draws, ranks, unit_rows[name])
        losses[name] = csre.weight * loss
        csre.active_share[name] = active.float().mean()
    return losses


def gathered_state_dict(csre: CSRE, group: dist.ProcessGroup | None = None) -> dict[str, Any] | None:
    """The state of ``csre`` with all rows of every bank, for a checkpoint; collective.

    It is what one process has, whatever the number of ranks, and may be loaded into any other number of them: each
    keeps its own rows. For that, ``torch.load`` with ``mmap=True`` spares every rank the rest.

    Args:
        csre: with sharded banks or without.
        group: the ranks; None for the default group.

    Returns:
        On rank 0 what ``csre.state_dict()`` gives, with the rows of sharded banks collected on the host; None on the
        other ranks.
    """
    ranks = Ranks.of(group)
    state = csre.state_dict()
    for name, bank in cast("dict[str, ClassSortedBank]", csre.banks).items():
        if bank.shard.ranks > 1:
            spans = [Shard(rank, ranks.world).span(len(bank.written)) for rank in range(ranks.world)]
            state[f"banks.{name}.rows"] = ranks.collect(bank.rows, [stop - start for start, stop in spans])
    return state if ranks.rank == 0 else None


def _gather_branches(ranks: Ranks, queries: dict[str, Tensor]) -> dict[str, Tensor]:
    """Per branch the unit rows (G, D) of all ranks, by one collective for all branches."""
    together = ranks.gather(torch.cat(list(queries.values()), dim=1))
    widths = [query.shape[1] for query in queries.values()]
    return dict(zip(queries, together.split(widths, dim=1), strict=True))
