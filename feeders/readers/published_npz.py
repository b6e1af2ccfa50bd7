"""Reads the arrays that the CTR-GCN family trains on: `NTU60_CS.npz`, `NTU60_CV.npz`, `NTU120_CSub.npz`, ...

Members `x_train`, `x_test`: (N, T, M * V * 3) float, zero behind the end of each clip; `y_train`, `y_test`: (N, K)
one-hot (numbers or bool), or (N,) integers. Such a file holds ten to twenty gigabytes, nearly all of them zeros,
so it is read in blocks, straight from the archive, and only what is not zero is kept.

Letters: N clips of a side, T padded frames, M persons, V joints, K classes.
"""

from __future__ import annotations

import errno
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from feeders.benchmarks import Benchmark
from feeders.benchmarks.benchmark import SIDE_COLUMN, SIDES
from feeders.choices import SPLITS, Split
from feeders.errors import DataError, why
from feeders.feeder import ALONE
from feeders.readers.collector import ClipCollector, Reading
from feeders.split import refuse_other_protocol

BLOCK = 16 * 2**20
"""Bytes read at a time, roughly."""


def read_published_npz(path: Path, benchmark: Benchmark, splits: Sequence[Split] = SPLITS) -> Reading:
    """The clips of the sides asked for, float32, named `train_0`, `train_1`, ... and `test_0`, ... by their position.

    A clip's frames are the first n, n being the number of frames whose coordinates do not add up to zero, as in the
    published feeders. A second person that is zero throughout is dropped, and so is a copy of the first where the
    benchmark copies lone actors (NTU120): the feeder makes it again unless `data.second_person` is zero.

    Raises `DataError` when the file is damaged, is none of this kind, or is that of another benchmark.
    """
    collector = ClipCollector(benchmark)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
            sizes = {split: _size(archive, f"x_{split}") for split in SPLITS}
            refuse_other_protocol(path, benchmark, sizes)
            for split in splits:
                _read_side(path, archive, split, benchmark, collector)
    except DataError as error:
        raise error if str(error).startswith(str(path)) else DataError(f"{path}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno == errno.EACCES:
            raise DataError(f"{path}: cannot be read ({why(error)})") from None
        raise DataError(f"{path}: not a readable .npz archive ({why(error)}); make or copy it again") from None
    return collector.finish()


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    members = [f"{array}_{split}.npy" for array in "xy" for split in SPLITS]
    if missing := sorted(set(members) - set(archive.namelist())):
        there = ", ".join(archive.namelist()[:8]) or "nothing"
        raise DataError(
            f"{path}: lacks {', '.join(missing)} (it holds {there}); data.path should name an archive of x_train, "
            f"y_train, x_test and y_test, as data/export_npz.py writes it"
        )


def _read_side(
    path: Path, archive: zipfile.ZipFile, split: Split, benchmark: Benchmark, collector: ClipCollector
) -> None:
    labels = _labels(path, archive, split, benchmark)
    side = {SIDE_COLUMN: SIDES[split]}
    position = 0
    with archive.open(f"x_{split}.npy") as member:
        shape, dtype = _header(member)
        if len(shape) != 3 or shape[2] % (collector.joints * 3):
            raise DataError(
                f"{path}: x_{split} has shape {shape}, expected (clips, frames, persons * {collector.joints} * 3)"
            )
        if shape[0] != len(labels):
            raise DataError(f"{path}: {shape[0]} clips in x_{split}, {len(labels)} labels in y_{split}")
        persons = shape[2] // (collector.joints * 3)
        for block in _blocks(member, shape, dtype):
            with np.errstate(over="ignore", invalid="ignore"):  # such a clip is refused below
                frames = np.count_nonzero(block.sum(axis=2, dtype=np.float32), axis=1)
            for padded, count in zip(block, frames.tolist(), strict=True):
                clip = padded[:count].reshape(count, persons, collector.joints, 3)
                if benchmark.second_person == "copy":
                    alone = persons == 2 and np.array_equal(clip[:, 0], clip[:, 1])
                    clip, metadata = clip[:, :1] if alone else clip, side | {ALONE: int(alone)}
                else:
                    metadata = side
                collector.add(f"{split}_{position}", int(labels[position]), metadata, clip)
                position += 1


def _labels(path: Path, archive: zipfile.ZipFile, split: Split, benchmark: Benchmark) -> np.ndarray:
    """(N,) int64 of one-hot rows or of numbers; -1 for a row that is not one-hot."""
    with archive.open(f"y_{split}.npy") as member:
        shape, dtype = _header(member)
        rows = np.concatenate([*_blocks(member, shape, dtype), np.zeros((0, *shape[1:]), dtype)])
    if rows.ndim == 1 and rows.dtype.kind in "iu":
        return rows.astype(np.int64)
    if rows.ndim != 2 or rows.shape[1] != benchmark.num_classes:
        raise DataError(
            f"{path}: y_{split} has shape {shape}, benchmark {benchmark.name} needs ({shape[0]}, "
            f"{benchmark.num_classes}); set data.benchmark to the one that the file was made for"
        )
    one_hot = (np.count_nonzero(rows, axis=1) == 1) & (rows.max(axis=1) > 0)
    return np.where(one_hot, rows.argmax(axis=1), -1)


def _size(archive: zipfile.ZipFile, array: str) -> int:
    """How many clips an array has, from its header alone."""
    with archive.open(f"{array}.npy") as member:
        shape, _ = _header(member)
    return shape[0] if shape else 0


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array whose numbers come next."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(member)
    if version not in read:
        raise ValueError(f"an array of the unknown format {version}")
    try:
        shape, columns_first, dtype = read[version](member)
    except (SyntaxError, TokenError, TypeError, RecursionError) as error:  # what becomes of a damaged header
        raise ValueError(f"an array with a damaged header: {error}") from None
    if dtype.kind not in "fiub":
        raise ValueError(f"an array of type {dtype}, expected plain numbers")
    if columns_first and len(shape) > 1:
        raise DataError(
            f"{member.name} is stored column after column (Fortran order) and cannot be read in blocks; save the file "
            f"again with numpy.ascontiguousarray(...) of each array"
        )
    return shape, dtype


def _blocks(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """Some rows at a time. Raises `EOFError` when there are fewer than the shape says."""
    row = int(np.prod(shape[1:])) * dtype.itemsize
    rows = max(1, BLOCK // max(row, 1))
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        data = member.read(count * row)
        if len(data) < count * row:
            raise EOFError("it ends in the middle of an array")
        yield np.frombuffer(data, dtype).reshape(count, *shape[1:])
    member.read(1)  # at its end the archive compares its checksum
