"""The section `skeleton_gcl` of a configuration. Free of torch, so that a typo is reported at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from common.options import option
from heads.csre_options import BankOptions, NegativesOptions, PositivesOptions


@dataclass
class SkeletonGCLOptions:
    """SkeletonGCL (ICLR 2023): contrast of the joint relations of each clip; defaults as released."""

    enabled: bool = option(False, "train with SkeletonGCL")
    temperature: float = option(0.8, "temperature of the contrastive loss; the authors use 0.5, 0.8 and 1.0", above=0)
    weight: float = option(1.0, "weight of the loss beside the cross entropy", at_least=0)
    projection: Literal["frozen", "trained"] = option(
        "frozen", "whether the layer between relations and contrast keeps its random start (released code) or learns"
    )
    dim: int = option(256, "length D of the contrasted vectors", at_least=1, below=65_536)
    too_few: Literal["skip", "use"] = option(
        "skip", "a clip with fewer positives or negatives than asked for: skip the clip, or use those there are"
    )
    positives: PositivesOptions = field(default_factory=PositivesOptions)
    negatives: NegativesOptions = field(default_factory=NegativesOptions)
    bank: BankOptions = field(default_factory=BankOptions)
