"""The options of a contrast: how many rows are chosen by which rule, and how their similarities become a loss.

The defaults follow the paper (section 3.3, equations 8 and 9, section 4.2) with the exponential that a softmax needs
and the mean over positives. The docs page paper_vs_code.md has a row per difference to the released code.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Denominator: TypeAlias = Literal["joint", "split"]
PositiveReduction: TypeAlias = Literal["mean", "sum"]
RepeatedNegatives: TypeAlias = Literal["twice", "once"]
OwnRow: TypeAlias = Literal["exclude", "include"]
TooFew: TypeAlias = Literal["use", "skip"]


class CSREError(ValueError):
    """A setting or an input that CSRE cannot work with; the message names it, the reason and the fix."""


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Refuse ``value`` if it is none of ``choices``.

    Raises:
        CSREError: names the option, the value, the nearest choice if one is near, and all choices.
    """
    known = list(choices)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CSREError(f"{option} is {value!r}: {hint}choose one of {', '.join(known)}")


@dataclass(frozen=True)
class Counts:
    """How many rows of the bank are chosen per anchor: ``hard`` by similarity, ``random`` uniformly.

    Raises:
        CSREError: a count is not an integer >= 0, or both are 0.
    """

    hard: int
    random: int

    def __post_init__(self) -> None:
        for rule, count in (("hard", self.hard), ("random", self.random)):
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise CSREError(f"the count of {rule} samples is {count!r}: it must be an integer >= 0")
        if self.hard + self.random == 0:
            raise CSREError("hard and random are both 0: a contrast needs at least one sample of each kind")

    @classmethod
    def of(cls, value: Counts | tuple[int, int]) -> Counts:
        """Counts as they are, or made from a pair (hard, random).

        Raises:
            CSREError: ``value`` is neither.
        """
        if isinstance(value, Counts):
            return value
        if isinstance(value, tuple | list) and len(value) == 2:
            return cls(*value)
        raise CSREError(f"the counts are {value!r}: give Counts(hard, random) or a pair (hard, random)")


@dataclass(frozen=True)
class ContrastOptions:
    """Every choice that the contrast of one branch depends on.

    Attributes:
        temperature: tau, divides every cosine similarity; above 0. The paper tried 0.5, 0.8 and 1.0.
        positives: rows of the anchor's class. Hard ones are the least similar, random ones never the anchor's own row.
        negatives: rows of other classes. Hard ones are the most similar.
        denominator: ``joint``: one positive plus all chosen negatives (paper, eq. 8 and 9). ``split``: one ratio with
            the hard and one with the random negatives, averaged (released code).
        positive_reduction: over an anchor's positives. The paper prints a sum; with 128 positives and 1024 negatives it
            starts near 128 * log(1025) = 887 per clip, which would drown a cross entropy of a few units.
        repeated_negatives: a negative chosen by both rules counts ``twice`` in a joint denominator, or ``once``.
        own_row: whether the anchor's own row of the bank may be among its hard positives (its similarity is 1 and its
            gradient 0).
        too_few: an anchor for which the bank holds fewer rows than asked for uses those there are, or is skipped.

    Raises:
        CSREError: a value is out of range or unknown, or two of them contradict each other.
    """

    temperature: float = 0.8
    positives: Counts = Counts(hard=128, random=0)
    negatives: Counts = Counts(hard=512, random=512)
    denominator: Denominator = "joint"
    positive_reduction: PositiveReduction = "mean"
    repeated_negatives: RepeatedNegatives = "twice"
    own_row: OwnRow = "exclude"
    too_few: TooFew = "use"

    def __post_init__(self) -> None:
        if not isinstance(self.temperature, int | float) or not 0 < self.temperature < math.inf:
            raise CSREError(f"temperature is {self.temperature!r}: it must be a finite number above 0, such as 0.8")
        check_choice("denominator", self.denominator, ("joint", "split"))
        check_choice("positive_reduction", self.positive_reduction, ("mean", "sum"))
        check_choice("repeated_negatives", self.repeated_negatives, ("twice", "once"))
        check_choice("own_row", self.own_row, ("exclude", "include"))
        check_choice("too_few", self.too_few, ("use", "skip"))
        if self.denominator == "split" and self.repeated_negatives == "once":
            raise CSREError(
                "repeated_negatives 'once' has no meaning with denominator 'split', where hard and random negatives "
                "never meet in one sum: use denominator 'joint' or repeated_negatives 'twice'"
            )

    def loss_bounds(self) -> tuple[float, float]:
        """The least and the greatest loss of a clip whose positives and negatives are as many as asked for.

        A positive with K negatives costs at least log(1 + K exp(-2/tau)), where its cosine is 1 and theirs are -1, and
        at most log(1 + K exp(2/tau)). With equal cosines, as near the start of a training, it costs log(1 + K). With
        temperature 0.8 and 1024 negatives the three are 4.4, 9.4 and 6.9: such a loss cannot come near zero.
        """
        counts = [count for count in (self.negatives.hard, self.negatives.random) if count > 0]
        fewest, most = counts, counts
        if self.denominator == "joint":
            most = [sum(counts)]
            fewest = [max(counts)] if self.repeated_negatives == "once" else most
        factor = self.positives.hard + self.positives.random if self.positive_reduction == "sum" else 1
        least, greatest = (
            factor * sum(_softplus(math.log(count) + sign * 2 / self.temperature) for count in sizes) / len(sizes)
            for sizes, sign in ((fewest, -1), (most, 1))
        )
        return least, greatest


def _softplus(value: float) -> float:
    """log(1 + exp(value)) without overflow."""
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
