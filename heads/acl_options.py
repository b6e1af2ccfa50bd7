"""The section `acl` of a configuration. Free of torch, so that a typo is reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.options import option


@dataclass
class ACLOptions:
    """The two losses of ACLNet (2026) on the joint relations of each clip; defaults as released."""

    enabled: bool = option(False, "train with ACLNet's losses")
    intra_weight: float = option(0.1, "weight of the contrast within classes beside the cross entropy", at_least=0)
    inter_weight: float = option(0.1, "weight of the contrast between confused classes", at_least=0)
    dim: int = option(256, "length D of the contrasted vectors", at_least=1, below=65_536)
    memory: int = option(
        512,
        "clips that the contrast within classes remembers; the authors: 512 for NTU 60, 1024 for NTU 120",
        at_least=1,
    )
    temperature: float = option(0.1, "temperature of the contrast within classes", above=0)
    epsilon: float = option(0.1, "a positive weighs exp(-epsilon) in its own denominator", at_least=0)
    momentum: float = option(0.9, "share of a class prototype that a step keeps", at_least=0, below=1)
    threshold: float = option(
        0.0, "probability above which a correct prediction moves its class's prototype", at_least=0, below=1
    )
    count_epoch: int = option(
        30, "first epoch whose confusions are counted; classes are contrasted from the next epoch on", at_least=1
    )
    false_positives: Literal["per_clip", "once"] = option(
        "per_clip", "a false positive counts once per clip of the class in the batch (released code), or once"
    )
    own_class: Literal["keep", "exclude"] = option(
        "keep", "a class that is in its own family: it stays there (released code), or not"
    )
