"""What heads whose state is memory banks have in common: bank, choice and loss of the package `csre`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from csre import BankContrast, contrast_across_ranks
from csre.ranks import Ranks
from heads.csre_options import BankOptions
from heads.head import Moment, TrainingHead


class BankHead(TrainingHead):
    """A head whose projections are unit rows, contrasted with a bank of each branch; a subclass builds `contrast`."""

    contrast: BankContrast

    def losses(
        self,
        projected: dict[str, Tensor],
        logits: Tensor,
        labels: Tensor,
        indices: Tensor,
        moment: Moment,
        ranks: Ranks,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        return contrast_across_ranks(self.contrast, projected, labels, indices, ranks.group, generator)

    def metrics(self) -> dict[str, Tensor]:
        return self.contrast.metrics()

    def snapshot(self) -> None:
        """Nothing: banks refuse rows that are not finite, and what else a skipped step wrote is as good as any."""

    def restore(self, snapshot: None, skipped: Tensor) -> None:
        """Nothing, see `snapshot`."""


def storage(bank: BankOptions) -> dict[str, Any]:
    """How a `BankContrast` of this run keeps its rows: the arguments for that, by name."""
    ranks = Ranks.of(None)
    return {
        "bank_dtype": bank.dtype,
        "capacity": bank.capacity,
        "shard": (ranks.rank, ranks.world) if bank.sharded and ranks.world > 1 else None,
    }


def advice(section: str) -> str:
    """What a user can do when no clip is contrasted with a bank; see `TrainingHead.inactive_advice`."""
    return (
        f"no clip had enough written positives and negatives; lower {section}.positives and {section}.negatives, set "
        f"{section}.too_few to use, or raise data.repeat"
    )
