"""The whole way from raw clips to one packed store: any number of processes, in constant memory, all or nothing."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from feeders.errors import DataError, reading, why
from feeders.ntu.actors import choose_actors
from feeders.ntu.names import PUBLISHED_FRAMES, Dataset, parse_name
from feeders.ntu.raw import parse_skeleton
from feeders.ntu.sources import Place, find_clips, open_archive
from feeders.store.hdf5 import StoreWriter, is_store

CLIPS_PER_TASK = 16
TASKS_PER_JOB = 3
"""Tasks handed out at a time: enough that no process waits, few enough that results do not pile up."""

Task = list[tuple[str, tuple[Place, ...]]]
"""Names of clips, each with the places where it was found."""
Progress = Callable[[int, int], None]
"""Gets how many clips are done, of how many."""


class Kind(StrEnum):
    """What became of a file that a user should hear about."""

    SKIPPED = "skipped"
    """Not in the store."""
    CONFLICT = "conflict"
    """Another file of the same name and other content is in the store."""
    DAMAGED_COPY = "damaged copy"
    """Cannot be used, but another file of the same name can, and is in the store."""
    DUPLICATE = "duplicate"
    """The same as a file that is in the store."""
    KEPT = "kept"
    """In the store, but odd."""


class Note(NamedTuple):
    """A remark about a file."""

    clip: str
    file: str
    kind: str
    reason: str


class Clip(NamedTuple):
    """A clip as it goes into the store: positions (T, M, V, 3) float32, and the columns setup, camera, subject,
    replication, and alone (1 where the published result has room for one actor)."""

    name: str
    label: int
    positions: np.ndarray
    columns: dict[str, int]


class Prepared(NamedTuple):
    """What became of a clip, None when no place had one that can be used; and remarks."""

    clip: Clip | None
    notes: list[Note]


class Summary(NamedTuple):
    """How a preparation went."""

    dataset: Dataset
    store: Path
    report: Path
    clips: int
    missing: int
    """Clips found that are on the missing list, and skipped."""
    foreign: int
    """Clips found that belong to the other part of NTU RGB+D."""
    notes: tuple[Note, ...]
    fingerprint: str
    seconds: float

    @property
    def absent(self) -> int:
        """Usable clips of the data set that are not in the store."""
        return self.dataset.usable - self.clips

    @property
    def counts(self) -> Counter[str]:
        """Number of notes of each kind."""
        return Counter(note.kind for note in self.notes)

    @property
    def complete(self) -> bool:
        """Every usable clip is in the store, and there is no doubt about any."""
        return not (self.absent or self.counts[Kind.SKIPPED] or self.counts[Kind.CONFLICT])


def prepare(
    raw: Sequence[Path], dataset: Dataset, out: Path, jobs: int, progress: Progress = lambda *_: None
) -> Summary:
    """Make the store `out` of all usable clips of the data set below `raw`, and a report beside it.

    The result does not depend on `jobs`, the most processes that work at it. The store appears when it is whole; a run
    that is interrupted leaves none.

    Raises `DataError` when there is no clip, the disk refuses, or `out` is something else than a packed store.
    """
    began = time.monotonic()
    _check_replaceable(out)
    found = find_clips(raw, dataset)
    notes = [Note("", bad.place, Kind.SKIPPED, bad.reason) for bad in found.bad]
    items = list(found.clips.items())
    tasks = [items[start : start + CLIPS_PER_TASK] for start in range(0, len(items), CLIPS_PER_TASK)]
    clips = done = 0
    with StoreWriter(out, skeleton="ntu", class_names=dataset.class_names) as writer:
        for results in _prepare_all(tasks, min(jobs, len(tasks), os.cpu_count() or 1)):
            for result in results:
                notes += result.notes
                if result.clip is not None:
                    writer.append(*result.clip)
                    clips += 1
            done += len(results)
            progress(done, len(items))
        notes.sort(key=lambda note: (note.clip, note.file))
        report = write_report(out, notes)
        if not clips:
            raise DataError(
                f"none of {len(items)} clips can be used; {report} names all, the first is {notes[0].file}: "
                f"{notes[0].reason}"
            )
    return Summary(
        dataset=dataset,
        store=out,
        report=report,
        clips=clips,
        missing=len(found.missing),
        foreign=found.foreign,
        notes=tuple(notes),
        fingerprint=writer.fingerprint,
        seconds=time.monotonic() - began,
    )


def prepare_clip(name: str, places: tuple[Place, ...]) -> Prepared:
    """Parse the clip and choose its actors; the first of its places that can be used counts."""
    clip: Clip | None = None
    used, used_text = "", b""
    notes, damaged = [], []
    for place in places:
        try:
            text = place.read()
            if clip is not None and text == used_text:
                notes.append(Note(name, str(place), Kind.DUPLICATE, f"the same as {used}"))
                continue
            usable, remark = _make(name, text)
        except DataError as error:
            damaged.append(Note(name, str(place), Kind.SKIPPED, str(error)))
            continue
        if clip is not None:
            notes.append(Note(name, str(place), Kind.CONFLICT, f"differs from {used}, which was used; remove one"))
            continue
        clip, used, used_text = usable, str(place), text
        if remark:
            notes.append(Note(name, used, Kind.KEPT, remark))
    if clip is not None:
        copied = f"; the copy at {used} was used"
        damaged = [note._replace(kind=Kind.DAMAGED_COPY, reason=note.reason + copied) for note in damaged]
    return Prepared(clip, damaged + notes)


def _make(name: str, text: bytes) -> tuple[Clip, str]:
    """The clip, and what is odd about it or ""."""
    actors = choose_actors(parse_skeleton(text))
    columns = parse_name(name)._asdict()
    label = columns.pop("action") - 1
    remarks = [actors.remark] if actors.remark else []
    if (frames := len(actors.positions)) > PUBLISHED_FRAMES:
        remarks.append(f"{frames} frames, real clips have at most {PUBLISHED_FRAMES}; all are kept")
    return Clip(name, label, actors.positions, columns | {"alone": int(actors.alone)}), "; ".join(remarks)


def write_report(out: Path, notes: Iterable[Note]) -> Path:
    """The notes as CSV beside the store, replacing an older report. Raises `DataError` when the disk refuses."""
    path = out.with_name(f"{out.stem}_report.csv")
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Note._fields)
            writer.writerows(notes)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({why(error)})") from error
    return path


def _check_replaceable(out: Path) -> None:
    """An older store is replaced once the new one is whole; anything else is left alone."""
    with reading(out):
        if out.is_dir():
            raise DataError(f"{out}: a folder; --output names the file of the store")
        if not out.exists():
            return
    try:
        ours = is_store(out)
    except OSError as error:
        raise DataError(
            f"{out}: exists and cannot be read ({why(error)}), so it may not be a packed store; "
            f"name another file with --output"
        ) from error
    if not ours:
        raise DataError(f"{out}: exists and is not a packed store; remove it or name another file with --output")


def _prepare_all(tasks: Sequence[Task], jobs: int) -> Iterator[list[Prepared]]:
    """The results of each task, in their order."""
    open_archive.cache_clear()  # archives of an earlier run may have changed, and processes must not share a handle
    if jobs == 1:
        yield from map(_prepare_task, tasks)
        return
    pool = ProcessPoolExecutor(jobs, initializer=_begin_worker, initargs=(os.getpid(),))
    pending: deque[Future[list[Prepared]]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(_prepare_task, task))
            if len(pending) >= jobs * TASKS_PER_JOB:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process was ended from outside, perhaps for lack of memory; run the same command again, with "
            "fewer --jobs if memory is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_task(task: Task) -> list[Prepared]:
    return [prepare_clip(name, places) for name, places in task]


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it is gone, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
