"""Says what a data set is, and whether it is complete and valid.

Quickly, from names and labels alone, before every training; thoroughly, looking at every clip, for
`tools/check_data.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feeders.benchmarks import BENCHMARKS, GENERATED, Benchmark
from feeders.benchmarks.ntu import missing_from_recordings
from feeders.choices import SPLITS, Split
from feeders.errors import BadClip, DataError, counted, reading
from feeders.formats import ARRAYS, DEMO, NPZ, ORIGINAL, PYSKL, STORE, Format, find_format
from feeders.ntu.names import PUBLISHED_FRAMES
from feeders.readers.collector import Reading
from feeders.readers.original import owners_at
from feeders.readers.pyskl import fitting_benchmark
from feeders.split import clips_of_side, split_clips
from feeders.store.packed import PackedStore

NAMES_SHOWN = 5
LINES_SHOWN = 20
"""Of a list of clips, unless all are asked for."""


@dataclass(frozen=True)
class Counts:
    """Clips of the sides of a benchmark, (K,) int64 each, and how many are expected there (None: unknown)."""

    benchmark: str
    found: dict[Split, np.ndarray]
    expected: dict[Split, int | None]
    expected_per_class: np.ndarray | None

    @property
    def per_class(self) -> np.ndarray:
        """(K,) int64, both sides together."""
        return self.found["train"] + self.found["test"]

    @property
    def deviating(self) -> np.ndarray:
        """Labels of the classes that have another number of clips than expected, or none at all."""
        expected = self.expected_per_class
        return np.flatnonzero(self.per_class == 0 if expected is None else self.per_class != expected)

    @property
    def whole(self) -> bool:
        """Whether all counts are the expected ones, and no side is empty."""
        if not all(self.found[split].any() for split in SPLITS):
            return False
        sides = all(self.expected[split] in (None, self.found[split].sum()) for split in SPLITS)
        return sides and not len(self.deviating)


@dataclass(frozen=True)
class Findings:
    """What a thorough check found: format and store (None: no clip can be used), the counts of every benchmark that
    fits, clips that are known to be missing, clips that cannot or should not be used."""

    format: str
    store: PackedStore | None
    counts: tuple[Counts, ...]
    missing: tuple[str, ...]
    bad: tuple[BadClip, ...]

    @property
    def good(self) -> bool:
        """Whether the data set is complete by at least one benchmark, and has no bad clip."""
        whole = self.store is not None and any(counts.whole for counts in self.counts)
        return whole and not self.missing and not self.bad

    def lines(self, shown: int | None = LINES_SHOWN) -> Iterator[str]:
        """The report; of missing and of bad clips at most `shown` are named, all with None."""
        yield f"format: {self.format}"
        if self.store is not None:
            store = self.store
            frames = store.frames.sum().item()
            yield f"skeleton: {store.skeleton}, {store.joints} joints"
            yield f"clips: {len(store)} of {len(store.class_names)} classes, {frames} frames"
            yield f"fingerprint: {store.fingerprint}"
            if not self.counts:
                yield "benchmark: none fits; describe your own in a YAML file and name it with --benchmark"
            for counts in self.counts:
                yield from _describe(counts, store.class_names)
        yield f"missing clips that are known by name: {len(self.missing)}"
        yield from _listed(self.missing, shown)
        yield f"bad clips: {len(self.bad)}"
        yield from _listed([f"{clip.name}: {clip.reason}" for clip in self.bad], shown)
        yield "complete and valid" if self.good else "incomplete or invalid"


def quick_remarks(store: PackedStore, benchmark: Benchmark, splits: Sequence[Split] = SPLITS) -> list[str]:
    """What a user should know before training, from names and labels alone, one line each.

    Raises `DataError` when the store does not fit the benchmark or a side has no clip.
    """
    remarks = []
    for split in splits:
        clips = split_clips(store, benchmark, split)
        expected = benchmark.expected_clips.get(split)
        if expected not in (None, len(clips)):
            remarks.append(f"benchmark {benchmark.name}: {len(clips)} {split} clips, {expected} expected")
        present = np.bincount(store.labels[clips].numpy(), minlength=len(store.class_names))
        if empty := [store.class_names[label] for label in np.flatnonzero(present == 0)]:
            of_all = f"{len(empty)} of {len(present)} classes"
            remarks.append(f"benchmark {benchmark.name}: no {split} clip of {of_all}: {_some(empty)}")
    if unusable := sorted(benchmark.missing.intersection(store.names)):
        known = f"{counted(len(unusable), 'clip')} known to have a bad skeleton"
        remarks.append(f"{known}: {_some(unusable)}")
    return remarks


def check_data(place: Path, benchmark: Benchmark | None = None, verify: bool = False) -> Findings:
    """Read all of what is at `place`, and judge it by `benchmark` or else by every built-in one that fits.

    verify: compare every clip of a packed store with its digest, too.
    An empty side of `benchmark` counts 0 clips; without `benchmark` a built-in one fits only if it has clips on both.
    Raises `DataError` when it cannot be read at all, does not fit the benchmark given, or has no digests to verify.
    """
    title, (store, bad), known = _read(place, benchmark, verify)
    if store is None:
        return Findings(title, None, (), (), tuple(bad))
    fitting = [known] if known else [each for each in BENCHMARKS.values() if _fits(store, each)]
    unusable = frozenset[str]().union(*(each.missing for each in fitting))
    bad = [*bad, *_bad_clips(store, unusable)]
    if verify:
        bad += [BadClip(name, "its content does not match its digest") for name in store.altered_clips()]
    missing = missing_from_recordings(store.names) if store.skeleton == "ntu" else []
    return Findings(title, store, tuple(_count(store, each) for each in fitting), tuple(missing), tuple(bad))


def _read(place: Path, benchmark: Benchmark | None, verify: bool) -> tuple[str, Reading, Benchmark | None]:
    """Format, what was read, and the benchmark it was read as where its sides or labels are those of one.

    Files that give labels without names are read as what they fit best.
    """
    with reading(place):
        if not place.exists():
            raise DataError(f"{place}: there is nothing; name the file or folder of a data set")
        if place.is_dir():
            candidates = [benchmark] if benchmark else BENCHMARKS.values()
            place = next((path for each in candidates if (path := each.data_path(place)) != place), place)
    found = find_format(place, benchmark or BENCHMARKS["nw-ucla"])
    if verify and found not in (STORE, DEMO):
        raise DataError(
            f"{place}: no checksums to verify in {found.title}; omit --verify, or name a packed store (.h5)"
        )
    if benchmark is None and found is ORIGINAL:
        return found.title, found.read(place, owners_at(place)[0], SPLITS), None
    if benchmark is not None or found not in (NPZ, PYSKL, ARRAYS):
        return found.title, found.read(place, benchmark or BENCHMARKS["nw-ucla"], SPLITS), benchmark
    if found is ARRAYS:
        raise DataError(f"{place}: a folder of your own arrays; name the YAML file of its benchmark with --benchmark")
    known = fitting_benchmark(place) if found is PYSKL else None
    return found.title, *((found.read(place, known, SPLITS), known) if known else _read_as_best(found, place))


def _read_as_best(found: Format, place: Path) -> tuple[Reading, Benchmark]:
    """As the benchmark by which the fewest clips are refused, the first of those."""
    best: tuple[Reading, Benchmark] | None = None
    refusals = []
    for candidate in (each for each in BENCHMARKS.values() if each.name not in GENERATED):
        try:
            given = found.read(place, candidate, SPLITS)
        except DataError as error:
            refusals.append(error)
            continue
        if best is None or len(given[1]) < len(best[0][1]):
            best = given, candidate
        if not best[0][1]:
            break
    if best is None:
        raise refusals[-1]
    return best


def _fits(store: PackedStore, benchmark: Benchmark) -> bool:
    try:
        sides = [split_clips(store, benchmark, split) for split in SPLITS]
        return all(map(len, sides)) and store.class_names == benchmark.class_names
    except DataError:
        return False


def _count(store: PackedStore, benchmark: Benchmark) -> Counts:
    labels = {split: store.labels[clips_of_side(store, benchmark, split)].numpy() for split in SPLITS}
    return Counts(
        benchmark.name,
        found={split: np.bincount(labels[split], minlength=len(store.class_names)) for split in SPLITS},
        expected={split: benchmark.expected_clips.get(split) for split in SPLITS},
        expected_per_class=None if benchmark.clips_per_class is None else np.array(benchmark.clips_per_class),
    )


def _bad_clips(store: PackedStore, unusable: frozenset[str]) -> Iterator[BadClip]:
    for index, name in enumerate(store.names):
        clip = store.clip(index)
        if not clip.isfinite().all():
            yield BadClip(name, "NaN or infinite coordinates")
        elif not clip.any():
            yield BadClip(name, "every coordinate is zero")
        elif store.skeleton == "ntu" and len(clip) > PUBLISHED_FRAMES:
            yield BadClip(name, f"{len(clip)} frames, no clip of NTU RGB+D has more than {PUBLISHED_FRAMES}")
        elif name in unusable:
            yield BadClip(name, "is on the list of clips with bad skeletons")


def _describe(counts: Counts, class_names: Sequence[str]) -> Iterator[str]:
    for split in SPLITS:
        found, expected = int(counts.found[split].sum()), counts.expected[split]
        verdict = "" if expected is None else ", as expected" if found == expected else f", expected {expected}"
        yield f"benchmark {counts.benchmark}, {split}: {counted(found, 'clip')}{verdict}"
        per_class = counts.found[split]
        yield f"  per class {per_class.min()} to {per_class.max()}: {' '.join(map(str, per_class.tolist()))}"
    for label in counts.deviating.tolist():
        expectation = "" if counts.expected_per_class is None else f", expected {counts.expected_per_class[label]}"
        yield f"  class {label} ({class_names[label]}): {counted(counts.per_class[label], 'clip')}{expectation}"


def _listed(entries: Sequence[str], shown: int | None) -> Iterator[str]:
    """One indented line per entry, and how many there are more."""
    yield from (f"  {entry}" for entry in entries[:shown])
    if shown is not None and len(entries) > shown:
        yield f"  ... and {len(entries) - shown} more"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
