"""Writes a store of NTU RGB+D as the padded arrays that CTR-GCN and its descendants read, clip by clip.

The layout (`NTU60_CS.npz` and so on, not compressed): x_train, x_test float32 (N, 300, 150) with 150 = 2 persons, 25
joints, 3 coordinates; y_train, y_test float64 (N, classes), one-hot. Clips are grouped by the number that decides the
split, ascending, and sorted by name within a group; that is the order of published score files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from common.files import write_atomically
from feeders.benchmarks import BENCHMARKS, Benchmark
from feeders.choices import SPLITS, SecondPerson, Split
from feeders.errors import DataError, reading
from feeders.ntu.names import DATASETS, NUM_JOINTS, PUBLISHED_FRAMES
from feeders.store.catalogue import Catalogue
from feeders.store.hdf5 import StoreFile

NUM_PERSONS = 2
NUMBERS_OF_PERSON = NUM_JOINTS * 3

Progress = Callable[[int, int], None]
"""Gets how many clips are done, of how many."""


class Exported(NamedTuple):
    """What was written: clips per split, and the names of clips that lost frames."""

    clips: dict[Split, int]
    cut: tuple[str, ...]


def dataset_of(catalogue: Catalogue) -> str:
    """ "ntu60" or "ntu120"; `DataError` when the store was not made of either by this project."""
    for name, dataset in DATASETS.items():
        if catalogue.class_names == dataset.class_names and "alone" in catalogue.metadata:
            return name
    raise DataError("not a store of NTU RGB+D that data/prepare_ntu.py made; only those can be exported")


def published_order(catalogue: Catalogue, benchmark: Benchmark, split: Split) -> np.ndarray:
    """Numbers of the clips of one side in the published order, (N,) int64."""
    column = catalogue.metadata[benchmark.split.column]
    members = np.isin(column, sorted(benchmark.split.values(split)))
    order = np.lexsort((np.array(catalogue.names), column))
    return order[members[order]]


def export_npz(
    store: Path,
    protocol: str,
    out: Path,
    frames: int = PUBLISHED_FRAMES,
    second_person: SecondPerson | None = None,
    progress: Progress = lambda *_: None,
) -> Exported:
    """Write the arrays of one protocol ("xsub", "xview", "xset") of the data set in `store`.

    frames: length to which clips are padded with zeros, longer ones lose their end. second_person: "zero", or "copy"
    the first person; None is what the published arrays of the data set have. The file gets its name when it is whole.

    Raises `DataError` for a store that is not NTU RGB+D, a protocol that its data set does not have, a side without
    clips, an `out` that exists, or a disk that refuses.
    """
    with StoreFile(store) as file:
        catalogue = file.catalogue
        dataset = dataset_of(catalogue)
        protocols = {each.protocol: each for each in BENCHMARKS.values() if each.dataset == dataset}
        if protocol not in protocols:
            raise DataError(f"--protocol {protocol}: {store} is {dataset}, which has {' and '.join(protocols)}")
        benchmark = protocols[protocol]
        with reading(out):
            if out.exists():
                raise DataError(f"{out}: exists; remove it or name another file with --output")
        orders = {split: published_order(catalogue, benchmark, split) for split in SPLITS}
        for split, order in orders.items():
            if not len(order):
                raise DataError(f"{store}: no {split} clip of {benchmark.name}; it does not hold the whole data set")
        copies = (second_person or benchmark.second_person) == "copy"
        with reading(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, lambda target: _write(target, file, orders, frames, copies, progress))
    cut = sorted(catalogue.names[i] for order in orders.values() for i in order if catalogue.frames[i] > frames)
    return Exported({split: len(order) for split, order in orders.items()}, tuple(cut))


def _write(
    target: IO[bytes],
    file: StoreFile,
    orders: dict[Split, np.ndarray],
    frames: int,
    copies: bool,
    progress: Progress,
) -> None:
    catalogue, classes = file.catalogue, len(file.catalogue.class_names)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        total, done = sum(map(len, orders.values())), 0
        for split, order in orders.items():
            copied = catalogue.metadata["alone"] * copies
            clips = (_pad(file.clip(i), frames, bool(copied[i])) for i in order.tolist())
            shape = (len(order), frames, NUM_PERSONS * NUMBERS_OF_PERSON)
            _stream(archive, f"x_{split}", "<f4", shape, clips, partial(_report, progress, done, total))
            done += len(order)
            one_hot = np.eye(classes)
            rows = (one_hot[label] for label in catalogue.labels[order])
            _stream(archive, f"y_{split}", "<f8", (len(order), classes), rows, lambda _: None)


def _report(progress: Progress, before: int, total: int, rows: int) -> None:
    progress(before + rows, total)


def _stream(
    archive: zipfile.ZipFile,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    rows: Iterable[np.ndarray],
    progress: Callable[[int], None],
) -> None:
    """Add an array to the archive, row by row; `progress` gets how many are in."""
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    # Not `ZipFile.writestr`: an array of more than 2 GB needs its size field widened before it is known.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for number, row in enumerate(rows, 1):
            member.write(np.ascontiguousarray(row, dtype).data)
            progress(number)


def _pad(clip: np.ndarray, frames: int, copied: bool) -> np.ndarray:
    """A clip (T, M, 25, 3) as (frames, 2, 75), zero where nothing is."""
    clip = clip[:frames]
    padded = np.zeros((frames, NUM_PERSONS, NUMBERS_OF_PERSON), np.float32)
    padded[: len(clip), : clip.shape[1]] = clip.reshape(*clip.shape[:2], -1)
    if copied:
        padded[:, 1] = padded[:, 0]
    return padded
