"""CSRE as a training head: a thin adapter of the package `csre`, which has all of the method (section `csre`)."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from csre import CSRE, gathered_state_dict
from heads.bank_head import BankHead, advice, storage
from heads.csre_options import CSREOptions
from model.encoder import Encoder, Observed


class CSREHead(BankHead):
    """Projections and memory banks of CSRE, one of each per branch."""

    inactive_advice = advice("csre")
    contrast: CSRE

    def __init__(self, encoder: Encoder, labels: Tensor, options: CSREOptions) -> None:
        super().__init__(encoder, labels)
        self.contrast = CSRE(
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
            **storage(options.bank),
        )
        self.trained = self.contrast.heads

    def project(self, observed: Observed) -> dict[str, Tensor]:
        return self.contrast.project(observed.features)

    def gathered_state_dict(self, group: dist.ProcessGroup | None = None) -> dict[str, Any] | None:
        return gathered_state_dict(self.contrast, group)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return self.contrast.load_state_dict(state_dict, strict, assign)
