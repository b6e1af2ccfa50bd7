"""Reads the original files of a data set as its benchmark says (`feeders.benchmarks.original`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from feeders.benchmarks import BENCHMARKS, Benchmark
from feeders.benchmarks.original import Files, Original
from feeders.choices import SPLITS, Split
from feeders.errors import DataError
from feeders.readers.collector import ClipCollector, Reading


def original_of(place: Path) -> Original | None:
    """Whose files lie in a folder or .zip archive, or below; None where they are no benchmark's."""
    files = Files(place)
    known = dict.fromkeys(each.original for each in BENCHMARKS.values() if each.original is not None)
    return next((original for original in known if files.matching(original.pattern)), None)


def read_original(place: Path, benchmark: Benchmark, splits: Sequence[Split] = SPLITS) -> Reading:
    """All clips, float32, in the reader's order, and those that cannot be used; `splits` makes no difference.

    A benchmark of a user's own may divide the clips in its own way, if it has the classes and the skeleton of the data
    set. Raises `DataError` for another data set than the benchmark's.
    """
    owner = owner_at(place)
    if (benchmark.skeleton, benchmark.class_names) != (owner.skeleton, owner.class_names):
        raise DataError(
            f"{place}: these are files of {owner.title.split(',')[0]}, not of benchmark {benchmark.name}; set "
            f"data.benchmark to {owner.name}, or name other data"
        )
    collector = ClipCollector(benchmark)
    assert owner.original is not None
    for name, label, metadata, clip in owner.original.read(Files(place)):
        if isinstance(clip, str):
            collector.refuse(name, clip)
        else:
            collector.add(name, label, metadata, clip)
    return collector.finish()


def owner_at(place: Path) -> Benchmark:
    """The first of the benchmarks whose original files lie there, which must be some."""
    original = original_of(place)
    return next(each for each in BENCHMARKS.values() if original is not None and each.original is original)
