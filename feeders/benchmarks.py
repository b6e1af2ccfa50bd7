"""What a benchmark is: skeleton, classes, persons, transforms, split. Pure Python, to check configurations early."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from feeders.choices import Split
from feeders.errors import DataError, unknown_choice

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class SplitRule:
    """Which clips train and which test, told from one number that each clip's name carries.

    `column` is the metadata column of the packed store ("subject", "camera", ...); a clip whose number is in
    neither set belongs to neither side.
    """

    column: str
    train: frozenset[int]
    test: frozenset[int]

    def values(self, split: Split) -> frozenset[int]:
        """The numbers of one side."""
        return self.train if split == "train" else self.test


@dataclass(frozen=True)
class Benchmark:
    """A data set together with its protocol.

    `transforms` names the family of crops and augmentations, `window` the number of frames that a network sees,
    `repeat` how often a training epoch visits each clip, `default_path` where the data lie when `data.path` is not
    given (relative to the repository), `expected_clips` the known number of clips per side.
    """

    name: str
    title: str
    skeleton: str
    num_classes: int
    num_persons: int
    transforms: Literal["ntu", "nw-ucla"]
    window: int
    repeat: int
    default_path: str
    split: SplitRule
    expected_clips: dict[Split, int]

    def data_path(self, path: str | Path | None = None) -> Path:
        """`path` as given (relative to the working directory), or the default place inside the repository."""
        return Path(path).expanduser() if path else REPOSITORY / self.default_path


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="demo",
            title="generated clips, cross-subject",
            skeleton="ntu",
            num_classes=12,
            num_persons=2,
            transforms="ntu",
            window=32,
            repeat=1,
            default_path="data/demo",
            split=SplitRule("subject", train=frozenset(range(1, 11)), test=frozenset(range(11, 16))),
            expected_clips={"train": 480, "test": 240},
        ),
        Benchmark(
            name="nw-ucla",
            title="NW-UCLA, views 1 and 2 against view 3",
            skeleton="nw-ucla",
            num_classes=10,
            num_persons=1,
            transforms="nw-ucla",
            window=52,
            repeat=5,
            default_path="data/NW-UCLA/all_sqe",
            split=SplitRule("camera", train=frozenset({1, 2}), test=frozenset({3})),
            expected_clips={"train": 1020, "test": 464},
        ),
    )
}


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name; `DataError` with the nearest name when there is none."""
    if not isinstance(name, str):
        raise DataError(f"expected the name of a benchmark, got {name!r} (known: {', '.join(BENCHMARKS)})")
    if name not in BENCHMARKS:
        raise unknown_choice("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]
