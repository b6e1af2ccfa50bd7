"""The section `csre` of a configuration. Free of torch, so that a typo is reported at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from common.options import option


@dataclass
class PositivesOptions:
    """How many positives each clip is contrasted with (CSRE: Table 6)."""

    hard: int = option(128, "positives with the lowest cosine similarity", at_least=0)
    random: int = option(0, "positives drawn uniformly", at_least=0)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Key and reason of each value that does not go with the others."""
        if self.hard + self.random == 0:
            yield "hard", "without positives there is nothing to contrast; raise it or random"


@dataclass
class NegativesOptions:
    """How many negatives each clip is contrasted with (CSRE: Table 6)."""

    hard: int = option(512, "negatives with the highest cosine similarity", at_least=0)
    random: int = option(512, "negatives drawn uniformly", at_least=0)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Key and reason of each value that does not go with the others."""
        if self.hard + self.random == 0:
            yield "hard", "without negatives there is nothing to contrast; raise it or random"


@dataclass
class BankOptions:
    """The memory banks."""

    dtype: Literal["float32", "float16", "bfloat16"] = option("float32", "number format of the stored rows")
    capacity: int | None = option(None, "rows kept per class, oldest replaced first; null: one per clip", at_least=2)
    sharded: bool = option(False, "with several processes: each keeps a part of the rows instead of all of them")


@dataclass
class CSREOptions:
    """The contrastive enhancement; without it the encoder trains with cross entropy alone."""

    enabled: bool = option(False, "train with CSRE")
    temperature: float = option(0.8, "temperature of the contrastive loss; the paper tries 0.5, 0.8 and 1.0", above=0)
    branches: list[Literal["spatial", "temporal", "global"]] = option(
        ["spatial", "temporal"], "features that are contrasted (paper, Table 5)"
    )
    dim: int = option(256, "length D of the contrasted vectors", at_least=1, below=65_536)
    reduction: int = option(8, "divisor r of the channels in the projection heads", at_least=1)
    weight: float = option(1.0, "weight of each branch's loss beside the cross entropy", at_least=0)
    denominator: Literal["joint", "split"] = option(
        "joint", "one denominator over all negatives (paper), or one each for hard and random ones (released code)"
    )
    positive_reduction: Literal["mean", "sum"] = option(
        "mean", "over positives; the paper prints a sum, which starts near 887 per clip and drowns the cross entropy"
    )
    repeated_negatives: Literal["twice", "once"] = option("twice", "how a negative selected by both rules counts")
    own_row: Literal["exclude", "include"] = option("exclude", "whether a clip's own row may be one of its positives")
    too_few: Literal["use", "skip"] = option(
        "use", "a clip with fewer positives or negatives than asked for: use those there are, or skip the clip"
    )
    positives: PositivesOptions = field(default_factory=PositivesOptions)
    negatives: NegativesOptions = field(default_factory=NegativesOptions)
    bank: BankOptions = field(default_factory=BankOptions)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Key and reason of each value that does not go with the others."""
        if not self.branches or len(set(self.branches)) < len(self.branches):
            yield "branches", f"must name each branch once, and at least one, got {self.branches}"
        if self.denominator == "split" and self.repeated_negatives == "once":
            yield "repeated_negatives", "once has no meaning with csre.denominator split; use twice, or joint"
