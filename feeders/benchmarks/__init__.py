"""The benchmarks, one module each. Imports no torch, so that configurations are checked early.

A new one: a module here with its `Benchmark`, its name in `BENCHMARKS`, and `graph/skeletons/<name>.yaml` unless it has
the joints of another (docs/data.md, "Adding a benchmark").
"""

from __future__ import annotations

from pathlib import Path

from common.files import user_path
from feeders.benchmarks.benchmark import REPOSITORY, Benchmark, SplitRule
from feeders.benchmarks.demo import DEMO, DEMO_2D, GENERATED
from feeders.benchmarks.msr_action3d import MSR_ACTION3D
from feeders.benchmarks.ntu import NTU_PROTOCOLS, NTU_STORES
from feeders.benchmarks.nw_ucla import NW_UCLA
from feeders.benchmarks.own import read_own_benchmark
from feeders.benchmarks.sbu import SBU_FOLDS
from feeders.benchmarks.utkinect import UTKINECT
from feeders.errors import DataError, unknown_choice

__all__ = [
    "BENCHMARKS",
    "GENERATED",
    "NTU_STORES",
    "REPOSITORY",
    "Benchmark",
    "SplitRule",
    "benchmark_name",
    "get_benchmark",
]

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (DEMO, DEMO_2D, NW_UCLA, *NTU_PROTOCOLS, MSR_ACTION3D, UTKINECT, *SBU_FOLDS)
}


def benchmark_name(benchmark: str) -> str:
    """What runs and scores are called for this value of `data.benchmark`: the name, or that of the YAML file."""
    return Path(benchmark).stem if benchmark.endswith((".yaml", ".yml")) else benchmark


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name, or the one that a user's YAML file describes (form: `feeders.benchmarks.own`).

    Raises `DataError` with the nearest name when there is none, or with what is wrong in the file.
    """
    if not isinstance(name, str):
        raise DataError(f"expected the name of a benchmark, got {name!r} (known: {', '.join(BENCHMARKS)})")
    if name.endswith((".yaml", ".yml")):
        return read_own_benchmark(user_path(name))
    if name not in BENCHMARKS:
        raise unknown_choice("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]
