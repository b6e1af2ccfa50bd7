"""How data say by themselves which clips train and which test: a metadata column of the packed store.

The column is called `side`, or `side_<protocol>` (`side_xsub`, ...) where the data were divided for one protocol of
several. A clip's number there is 0 for training, 1 for testing, -1 for neither.
"""

from __future__ import annotations

from feeders.benchmarks import Benchmark
from feeders.choices import Split

SIDE_COLUMN = "side"
SIDES: dict[Split, int] = {"train": 0, "test": 1}
NEITHER = -1


def side_column(benchmark: Benchmark) -> str:
    """The column for the benchmark's protocol, which stands behind the first hyphen of its name."""
    _, _, protocol = benchmark.name.partition("-")
    return f"{SIDE_COLUMN}_{protocol}" if benchmark.expected_clips and protocol else SIDE_COLUMN
