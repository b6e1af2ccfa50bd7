"""SkeletonGCL: contrast of the joint relations of clips (Huang et al., ICLR 2023; section `skeleton_gcl`).

The relations of every clip, a matrix over its joints in each of S subsets, are projected to one vector. A memory bank
keeps the latest vector of every training clip, and each clip is contrasted with rows of its class and of others: bank,
choice and loss are those of the package `csre`, in the reading of SkeletonGCL's released code, whose projection never
learns. docs/heads.md names what differs from the paper.

Letters: n clips of this rank, S subsets, V joints, D dimensions of a vector, K classes.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from csre import BankContrast, ContrastOptions, Counts, gathered_state_dict
from csre.loss import normalise_rows
from heads.bank_head import BankHead, advice, storage
from heads.skeleton_gcl_options import SkeletonGCLOptions
from model.encoder import Encoder, Observed

BRANCH = "graph"


class FrozenLinear(nn.Module):
    """A linear layer whose weight (D, inputs) and bias (D,) are buffers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(outputs, inputs))
        self.register_buffer("bias", torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class SkeletonGCLHead(BankHead):
    """Projection and memory bank; the encoder shows `relations` (n, S, V, V)."""

    reads: ClassVar[frozenset[str]] = frozenset({"features", "relations"})
    inactive_advice = advice("skeleton_gcl")

    def __init__(self, encoder: Encoder, labels: Tensor, options: SkeletonGCLOptions) -> None:
        super().__init__(encoder, labels)
        assert encoder.relation_shape is not None  # the registry builds no head for what an encoder does not show
        inputs = math.prod(encoder.relation_shape)
        if options.projection == "trained":
            self.trained = nn.Linear(inputs, options.dim)
        else:
            self.frozen = FrozenLinear(inputs, options.dim)
        nn.init.normal_(self.projection.weight, 0, math.sqrt(2 / encoder.num_classes))
        nn.init.zeros_(self.projection.bias)
        self.contrast = BankContrast(
            [BRANCH],
            labels,
            ContrastOptions(
                temperature=options.temperature,
                positives=Counts(options.positives.hard, options.positives.random),
                negatives=Counts(options.negatives.hard, options.negatives.random),
                denominator="split",
                own_row="include",
                too_few=options.too_few,
            ),
            dim=options.dim,
            weight=options.weight,
            **storage(options.bank),
        )

    @property
    def projection(self) -> nn.Linear | FrozenLinear:
        """The layer between relations and contrast, whether it learns or not."""
        return self.trained if isinstance(self.trained, nn.Linear) else self.frozen

    def project(self, observed: Observed) -> dict[str, Tensor]:
        assert observed.relations is not None
        # Of 2S-AGCN they are sums over thousands of products, which half precision could not hold.
        with torch.autocast(observed.relations.device.type, enabled=False):
            graphs = observed.relations.flatten(1).to(self.projection.weight.dtype)
            return {BRANCH: normalise_rows(self.projection(graphs))}

    def gathered_state_dict(self, group: dist.ProcessGroup | None = None) -> dict[str, Any] | None:
        bank = gathered_state_dict(self.contrast, group)
        if bank is None:
            return None
        return self.state_dict() | {f"contrast.{name}": value for name, value in bank.items()}
