"""Reads a user's own clips: a folder of .npy files and one .csv file that says what they are.

Each array is (T, V, 3) or (T, M, V, 3). The table has one line per clip and a header:

    name,label,side,subject
    wave_01,wave,train,1
    grab_01,grab,test,2

`name` is the file's (with or without .npy, folders below with /), `label` a class name of the benchmark or its number
from 0 on, `side` train or test. `side` may be missing when the benchmark splits by another column; every further column
must hold integers and becomes a metadata column.

Letters: T frames, M persons, V joints.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from tokenize import TokenError

import numpy as np

from common.words import did_you_mean
from feeders.benchmarks import Benchmark
from feeders.benchmarks.benchmark import SIDE_COLUMN, SIDES
from feeders.choices import SPLITS, Split
from feeders.errors import DataError, UnusableClip, why
from feeders.readers.collector import ClipCollector, Reading

REQUIRED = ("name", "label")


def read_own_arrays(folder: Path, benchmark: Benchmark, splits: Sequence[Split] = SPLITS) -> Reading:
    """The clips of the table in its order, float32, and those that cannot be used.

    Persons behind the last one that is there are dropped. An array that the table does not name is a clip that cannot
    be used, and so is a line without its array. Raises `DataError` when the table itself cannot be used.
    """
    table = _table_of(folder)
    lines = _read_table(table)
    collector = ClipCollector(benchmark)
    seen = set()
    for number, line in lines:
        name = line["name"].removesuffix(".npy")
        try:
            if name in seen:
                raise UnusableClip(f"line {number} of {table.name} names it again")
            seen.add(name)
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise UnusableClip("is outside of the folder; names count from it")
            label = _label(line["label"], collector.class_names)
            metadata = _metadata(line)
            if SIDE_COLUMN in metadata and metadata[SIDE_COLUMN] not in {SIDES[split] for split in splits}:
                continue
            collector.add(name, label, metadata, _load(folder / f"{name}.npy"))
        except UnusableClip as reason:
            collector.refuse(name or f"line {number}", str(reason))
    for file in sorted(folder.rglob("*.npy")):
        if (name := file.relative_to(folder).with_suffix("").as_posix()) not in seen:
            collector.refuse(name, f"{table.name} has no line for it")
    return collector.finish()


def _table_of(folder: Path) -> Path:
    tables = sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        found = ", ".join(table.name for table in tables) or "none"
        raise DataError(f"{folder}: a folder of arrays needs exactly one .csv table of its clips, found {found}")
    return tables[0]


def _read_table(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and columns of every clip."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            if missing := [column for column in REQUIRED if column not in columns]:
                raise DataError(
                    f"{table}: has no column {' or '.join(missing)}, only {', '.join(columns) or 'nothing'}; the "
                    f"first line needs name, label, and side or what the benchmark splits by"
                )
            reader.fieldnames = columns
            lines = [(reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read ({why(error)})") from None
    for number, line in lines:
        if None in line or None in line.values():
            raise DataError(f"{table}, line {number}: not as many columns as the first line names ({len(columns)})")
    return [(number, {column: value.strip() for column, value in line.items()}) for number, line in lines]


def _label(text: str, classes: tuple[str, ...]) -> int:
    if text in classes:
        return classes.index(text)
    try:
        return int(text)
    except ValueError:
        raise UnusableClip(f"label {text!r} is not a class of the benchmark{did_you_mean(text, classes)}") from None


def _metadata(line: dict[str, str]) -> dict[str, int]:
    metadata = {}
    for column, text in line.items():
        if column == SIDE_COLUMN:
            if text not in SPLITS:
                raise UnusableClip(f"side {text!r} is neither train nor test")
            metadata[column] = SIDES["train" if text == "train" else "test"]
        elif column not in REQUIRED:
            try:
                metadata[column] = int(text)
            except ValueError:
                raise UnusableClip(f"{column} {text!r} is not an integer") from None
    return metadata


def _load(file: Path) -> np.ndarray:
    """The array as (T, M, V, 3)."""
    try:
        array = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise UnusableClip("no such .npy file") from None
    except (OSError, ValueError, EOFError, SyntaxError, TokenError, TypeError, RecursionError, MemoryError) as error:
        raise UnusableClip(f"is not a readable .npy file ({why(error)})") from None
    if array.dtype.kind not in "fiu":
        raise UnusableClip(f"holds {array.dtype}, expected numbers")
    if array.ndim not in (3, 4) or array.shape[-1] != 3:
        raise UnusableClip(f"shape {array.shape}, expected (frames, joints, 3) or (frames, persons, joints, 3)")
    return array if array.ndim == 4 else array[:, None]
