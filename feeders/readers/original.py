"""Reads the original files of a data set as its benchmark says (`feeders.benchmarks.original`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from feeders.benchmarks import BENCHMARKS, Benchmark
from feeders.benchmarks.original import Files, Original
from feeders.choices import SPLITS, Split
from feeders.errors import DataError
from feeders.readers.collector import ClipCollector, Reading


def owners_at(place: Path) -> list[Benchmark]:
    """The first benchmark of each data set whose original files lie in a folder or .zip archive, or below."""
    files = Files(place)
    firsts: dict[Original, Benchmark] = {}
    for benchmark in BENCHMARKS.values():
        if benchmark.original is not None:
            firsts.setdefault(benchmark.original, benchmark)
    return [benchmark for original, benchmark in firsts.items() if files.matching(original.pattern)]


def read_original(place: Path, benchmark: Benchmark, splits: Sequence[Split] = SPLITS) -> Reading:
    """All clips, float32, in the reader's order, and those that cannot be used; `splits` makes no difference.

    A benchmark of a user's own may divide the clips in its own way, if it has the classes and the skeleton of the data
    set. Raises `DataError` for other data sets than the benchmark's, and for two copies of a file.
    """
    owners = owners_at(place)
    known_as = benchmark.skeleton, benchmark.class_names
    owner = next((each for each in owners if (each.skeleton, each.class_names) == known_as), None)
    if owner is None:
        raise DataError(
            f"{place}: these are files of {owners[0].title.split(',')[0]}, not of benchmark {benchmark.name}; set "
            f"data.benchmark to {owners[0].name}, or name other data"
        )
    collector = ClipCollector(benchmark)
    assert owner.original is not None
    files = Files(place)
    _refuse_copies(files, owner.original.pattern)
    for name, label, metadata, clip in owner.original.read(files):
        if isinstance(clip, str):
            collector.refuse(name, clip)
        else:
            collector.add(name, label, metadata, clip)
    return collector.finish()


def _refuse_copies(files: Files, pattern: str) -> None:
    parts = len(PurePosixPath(pattern).parts)
    known: dict[tuple[str, ...], PurePosixPath] = {}
    for path in files.matching(pattern):
        other = known.setdefault(path.parts[-parts:], path)
        if other is not path:
            raise DataError(
                f"{files.place}: the same file is in it twice, {other} and {path}; point data.path at one of the copies"
            )
