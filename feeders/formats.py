"""Which reader a file or folder needs, chosen by what it is, not by the benchmark's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from feeders.benchmarks import GENERATED, Benchmark
from feeders.choices import Split
from feeders.demo.cache import open_demo
from feeders.errors import DataError, reading
from feeders.ntu.names import DATASETS
from feeders.readers.collector import Reading
from feeders.readers.nw_ucla import read_nw_ucla
from feeders.readers.original import owners_at, read_original
from feeders.readers.own_arrays import read_own_arrays
from feeders.readers.published_npz import read_published_npz
from feeders.readers.pyskl import read_pyskl
from feeders.store.packed import PackedStore


class Format(NamedTuple):
    """A kind of data, and how it is read: place, benchmark and the sides to a store and the bad clips."""

    title: str
    read: Callable[[Path, Benchmark, Sequence[Split]], Reading]


DEMO = Format("generated demo clips", lambda place, benchmark, splits: (open_demo(place, benchmark.name), []))
STORE = Format("packed store", lambda place, benchmark, splits: (PackedStore.load(place), []))
NW_UCLA = Format("folder of NW-UCLA clips (.json)", lambda place, benchmark, splits: read_nw_ucla(place))
ARRAYS = Format("folder of arrays (.npy) with a table (.csv)", read_own_arrays)
NPZ = Format("published arrays (.npz)", read_published_npz)
PYSKL = Format("PYSKL annotations (.pkl)", read_pyskl)
ORIGINAL = Format("original files of a benchmark (folder or .zip)", read_original)

BY_SUFFIX = {".h5": STORE, ".hdf5": STORE, ".npz": NPZ, ".pkl": PYSKL, ".pickle": PYSKL}
BY_CONTENT = {"*.json": NW_UCLA, "*.csv": ARRAYS, "*.npy": ARRAYS}
RAW = tuple(f"{folders}{name}" for name in ("*.skeleton", "nturgb*.zip") for folders in ("", "*/", "*/*/"))


def find_format(place: Path, benchmark: Benchmark) -> Format:
    """The format of what is at `place`.

    Raises `DataError` when nothing is there, nothing that a reader knows, or what the system does not let be read.
    """
    with reading(place):
        return _find(place, benchmark)


def _find(place: Path, benchmark: Benchmark) -> Format:
    if benchmark.name in GENERATED and (not place.is_file() or place.suffix == ".h5"):
        return DEMO
    if place.is_dir():
        return _of_folder(place, benchmark)
    if not place.exists():
        raise DataError(
            f"{place.absolute()}: no data there; benchmark {benchmark.name} expects {benchmark.source}; "
            f"put that there or name its place with data.path"
        )
    if place.suffix in BY_SUFFIX:
        return BY_SUFFIX[place.suffix]
    raw = place.match("*.skeleton") or place.match("nturgb*.zip")
    if place.suffix == ".zip" and not raw and owners_at(place):
        return ORIGINAL
    raise _unknown(place, benchmark, raw)


def _of_folder(place: Path, benchmark: Benchmark) -> Format:
    next(place.iterdir(), None)  # is refused for a locked folder, in which `glob` would find nothing
    for pattern, known in BY_CONTENT.items():
        if next(place.glob(pattern), None):
            return known
    raw = any(next(place.glob(pattern), None) for pattern in RAW)
    if not raw and owners_at(place):
        return ORIGINAL
    if benchmark.name == "nw-ucla" and not raw:
        return NW_UCLA  # whose reader says where such clips may be
    raise _unknown(place, benchmark, raw)


def _unknown(place: Path, benchmark: Benchmark, raw: bool) -> DataError:
    if raw:
        dataset = benchmark.dataset if benchmark.dataset in DATASETS else "ntu60"
        return DataError(
            f"{place}: raw clips of NTU RGB+D; make a packed store of them first: "
            f"python data/prepare_ntu.py --raw {place} --dataset {dataset}"
        )
    known = ", ".join(dict.fromkeys(known.title for known in (*BY_SUFFIX.values(), *BY_CONTENT.values(), ORIGINAL)))
    return DataError(f"{place}: unknown format; supported formats: {known}")
