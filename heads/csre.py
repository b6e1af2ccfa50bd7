"""CSRE as a training head: a thin adapter of the package `csre`, which has all of the method (section `csre`)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from csre import CSRE, contrast_across_ranks, gathered_state_dict
from csre.ranks import Ranks
from heads.csre_options import CSREOptions
from heads.head import Moment, TrainingHead
from model.encoder import Encoder, Observed


class CSREHead(TrainingHead):
    """Projections and memory banks of CSRE, one of each per branch."""

    inactive_advice = (
        "no clip had enough written positives and negatives; lower csre.positives and csre.negatives, set csre.too_few "
        "to use, or raise data.repeat"
    )

    def __init__(self, encoder: Encoder, labels: Tensor, options: CSREOptions) -> None:
        super().__init__(encoder, labels)
        ranks = Ranks.of(None)
        self.csre = CSRE(
            encoder.feature_shape,
            labels,
            temperature=options.temperature,
            dim=options.dim,
            reduction=options.reduction,
            branches=options.branches,
            weight=options.weight,
            denominator=options.denominator,
            positive_reduction=options.positive_reduction,
            repeated_negatives=options.repeated_negatives,
            own_row=options.own_row,
            too_few=options.too_few,
            positives=(options.positives.hard, options.positives.random),
            negatives=(options.negatives.hard, options.negatives.random),
            bank_dtype=options.bank.dtype,
            capacity=options.bank.capacity,
            shard=(ranks.rank, ranks.world) if options.bank.sharded and ranks.world > 1 else None,
        )
        self.trained = self.csre.heads

    def project(self, observed: Observed) -> dict[str, Tensor]:
        return self.csre.project(observed.features)

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
        return contrast_across_ranks(self.csre, projected, labels, indices, ranks.group, generator)

    def metrics(self) -> dict[str, Tensor]:
        return self.csre.metrics()

    def gathered_state_dict(self, group: dist.ProcessGroup | None = None) -> dict[str, Any] | None:
        return gathered_state_dict(self.csre, group)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return self.csre.load_state_dict(state_dict, strict, assign)

    def snapshot(self) -> None:
        """Nothing: banks refuse rows that are not finite, and what else a skipped step wrote is as good as any."""

    def restore(self, snapshot: None, skipped: Tensor) -> None:
        """Nothing, see `snapshot`."""
