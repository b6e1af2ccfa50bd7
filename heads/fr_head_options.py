"""The section `fr_head` of a configuration. Free of torch, so that a typo is reported at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from common.options import option


@dataclass
class StageWeights:
    """Weight of each stage of the encoder in the loss; 0 switches a stage off."""

    low: float = option(0.1, "weight of the first block's map", at_least=0)
    mid: float = option(0.2, "weight of the map after the first halving of the frames", at_least=0)
    high: float = option(0.5, "weight of the map after the second halving of the frames", at_least=0)
    fin: float = option(1.0, "weight of the last block's map", at_least=0)


@dataclass
class FRHeadOptions:
    """FR-Head (CVPR 2023): contrast with class prototypes that confused clips refine; defaults as released."""

    enabled: bool = option(False, "train with FR-Head")
    version: Literal["all", "true_positives", "prototypes"] = option(
        "all", "what the refinement acts on: all clips (V0), correctly classified ones (V1), or the prototypes (V2)"
    )
    terms: list[Literal["false_negatives", "false_positives"]] = option(
        ["false_negatives", "false_positives"], "confused clips that refine; an empty list contrasts only (ablation)"
    )
    weight: float = option(0.1, "weight of the whole head beside the cross entropy", at_least=0)
    dim: int = option(256, "length D of the contrasted vectors and prototypes", at_least=1, below=65_536)
    temperature: float = option(0.125, "temperature of the contrast with the prototypes", above=0)
    alpha: float = option(0.125, "strength of the refinement (not used by version prototypes)", at_least=0)
    momentum: float = option(0.9, "share of a prototype that a step keeps", at_least=0, below=1)
    threshold: float = option(
        0.0, "probability above which a correct prediction moves its class's prototype", at_least=0, below=1
    )
    use_p_map: bool = option(
        True, "weigh the refinement of a clip by 1 - its probability of the true class (version prototypes: no effect)"
    )
    start_epoch: int = option(1, "first epoch whose loss has the head's part; before, only its state moves", at_least=1)
    stage_weights: StageWeights = field(default_factory=StageWeights)
