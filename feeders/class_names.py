"""The classes of a benchmark by name, for data that give only numbers."""

from __future__ import annotations

from feeders.benchmarks import Benchmark
from feeders.demo import ACTIONS
from feeders.ntu.names import DATASETS
from feeders.own_benchmark import OwnBenchmark
from feeders.readers.nw_ucla import CLASS_NAMES as NW_UCLA_CLASSES


def class_names(benchmark: Benchmark) -> tuple[str, ...]:
    """The name of each label's class."""
    if isinstance(benchmark, OwnBenchmark):
        return benchmark.class_names
    dataset, _, _ = benchmark.name.partition("-")
    if dataset in DATASETS:
        return DATASETS[dataset].class_names
    return NW_UCLA_CLASSES if benchmark.name == "nw-ucla" else tuple(action.name for action in ACTIONS)
