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
    given (relative to the repository), `source` what should lie there and who makes it, `expected_clips` the known
    number of clips per side.
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
    source: str
    split: SplitRule
    expected_clips: dict[Split, int]

    def data_path(self, path: str | Path | None = None) -> Path:
        """`path` as given (relative to the working directory), or the default place inside the repository."""
        return Path(path).expanduser() if path else REPOSITORY / self.default_path


NTU_STORES = {"ntu60": "data/ntu60.h5", "ntu120": "data/ntu120.h5"}
"""Where `data/prepare_ntu.py` puts a data set and both its protocols look for it (relative to the repository)."""

_NTU60_TRAINERS = frozenset({1, 2, 4, 5, 8, 9, *range(13, 20), 25, 27, 28, 31, 34, 35, 38})
_NTU120_TRAINERS = _NTU60_TRAINERS | {
    *(45, 46, 47, 49, 50, *range(52, 60), 70, 74, 78, *range(80, 87), 89),
    *(*range(91, 96), 97, 98, 100, 103),
}
"""The subjects that train in X-Sub (Shahroudy et al., CVPR 2016; Liu et al., TPAMI 2019)."""


def _ntu(dataset: str, protocol: str, title: str, split: SplitRule, clips: tuple[int, int]) -> Benchmark:
    """A protocol of NTU RGB+D; `clips` are the numbers of usable training and test clips."""
    return Benchmark(
        name=f"{dataset}-{protocol}",
        title=title,
        skeleton="ntu",
        num_classes=int(dataset.removeprefix("ntu")),
        num_persons=2,
        transforms="ntu",
        window=64,
        repeat=1,
        default_path=NTU_STORES[dataset],
        source=f"the packed store that `python data/prepare_ntu.py --raw FOLDER --dataset {dataset}` makes",
        split=split,
        expected_clips={"train": clips[0], "test": clips[1]},
    )


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
            source="clips that are generated at the first use",
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
            source="the folder all_sqe with its 1484 JSON clips, or a packed store (.h5)",
            split=SplitRule("camera", train=frozenset({1, 2}), test=frozenset({3})),
            expected_clips={"train": 1020, "test": 464},
        ),
        _ntu(
            "ntu60",
            "xsub",
            "NTU RGB+D 60, half of the subjects against the others",
            SplitRule("subject", _NTU60_TRAINERS, frozenset(range(1, 41)) - _NTU60_TRAINERS),
            clips=(40_091, 16_487),
        ),
        _ntu(
            "ntu60",
            "xview",
            "NTU RGB+D 60, cameras 2 and 3 against camera 1",
            SplitRule("camera", train=frozenset({2, 3}), test=frozenset({1})),
            clips=(37_646, 18_932),
        ),
        _ntu(
            "ntu120",
            "xsub",
            "NTU RGB+D 120, half of the subjects against the others",
            SplitRule("subject", _NTU120_TRAINERS, frozenset(range(1, 107)) - _NTU120_TRAINERS),
            clips=(63_026, 50_919),
        ),
        _ntu(
            "ntu120",
            "xset",
            "NTU RGB+D 120, even set-ups against odd ones",
            SplitRule("setup", train=frozenset(range(2, 33, 2)), test=frozenset(range(1, 33, 2))),
            clips=(54_468, 59_477),
        ),
    )
}


def benchmark_name(benchmark: str) -> str:
    """What runs and scores are called that `data.benchmark` says this for: the name, or that of the YAML file."""
    return Path(benchmark).stem if benchmark.endswith((".yaml", ".yml")) else benchmark


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name, or the one that a user's YAML file describes (form: `feeders.own_benchmark`).

    Raises `DataError` with the nearest name when there is none, or with what is wrong in the file.
    """
    if not isinstance(name, str):
        raise DataError(f"expected the name of a benchmark, got {name!r} (known: {', '.join(BENCHMARKS)})")
    if name.endswith((".yaml", ".yml")):
        from feeders.own_benchmark import read_own_benchmark  # which builds on this module

        return read_own_benchmark(Path(name).expanduser())
    if name not in BENCHMARKS:
        raise unknown_choice("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]
