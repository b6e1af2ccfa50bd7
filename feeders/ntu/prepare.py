"""The whole way from raw clips to one packed store: any number of processes, resumable, in constant memory."""

from __future__ import annotations

import csv
import glob
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import h5py

from feeders.errors import DataError, reading, why
from feeders.ntu.clip import Kind, Note, Prepared, prepare_clip, stamp_of
from feeders.ntu.names import Dataset
from feeders.ntu.sources import Found, Place, find_clips
from feeders.ntu.spool import Spool
from feeders.store_file import FORMAT, text_of
from feeders.store_file import VERSION as STORE_VERSION
from feeders.store_writer import StoreWriter

PIPELINE_VERSION = 1
"""Of what is made of a raw clip: prepared clips of another version are not gone on with."""
CLIPS_PER_TASK = 16
TASKS_PER_JOB = 3
"""Tasks handed out at a time: enough that no process waits, few enough that results do not pile up."""

Task = tuple[str, tuple[Place, ...]]
Progress = Callable[[str, int, int], None]
"""Told what is done ("prepare" or "write"), how many clips so far, of how many."""
Item = TypeVar("Item")


class Summary(NamedTuple):
    """How a preparation went."""

    dataset: Dataset
    store: Path
    report: Path
    clips: int
    resumed: int
    """Clips that were taken over from an interrupted run."""
    missing: int
    """Clips found that are on the missing list, and left out."""
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
    raw: Sequence[Path],
    dataset: Dataset,
    out: Path,
    jobs: int,
    say: Callable[[str], None],
    progress: Progress = lambda *_: None,
) -> Summary:
    """Make the store `out` of all usable clips of the data set below `raw`, and a report beside it.

    The result does not depend on `jobs`, the number of processes, nor on interruptions: what an interrupted run has
    done lies beside `out`, and the next one goes on with it unless the files changed. `say` hears what is worth a line
    while it runs.

    Raises `DataError` when there is no clip, the disk refuses, or `out` is something else than a packed store.
    """
    began = time.monotonic()
    _check_replaceable(out)
    found = find_clips(raw, dataset)
    purpose = {"dataset": dataset.name, "pipeline": PIPELINE_VERSION, "store": STORE_VERSION}
    with Spool(out, purpose) as spool:
        tasks = _remaining(found, spool, say)
        resumed = len(found.clips) - len(tasks)
        skipped: list[Note] = [Note("", bad.place, Kind.SKIPPED, bad.reason) for bad in found.bad]
        done = resumed
        for results in _prepare_all(tasks, jobs):
            spool.append([(r.clip, r.stamp, [list(note) for note in r.notes]) for r in results if r.clip])
            skipped += [note for r in results if r.clip is None for note in r.notes]
            done += len(results)
            progress("prepare", done, len(found.clips))
        names = [name for name in found.clips if name in spool.entries]
        notes = skipped + [Note(*note) for name in names for note in spool.entries[name].notes]
        notes.sort(key=lambda note: (note.clip, note.file))
        report = write_report(out, notes)
        if not names:
            spool.remove()
            raise DataError(
                f"none of {len(found.clips)} clips can be used; {report} names all, the first is {notes[0].file}: "
                f"{notes[0].reason}"
            )
        # Only this process may write here, so what is there was left by one that was killed while it wrote.
        for leftover in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):
            leftover.unlink()
        with StoreWriter(out, skeleton="ntu", class_names=dataset.class_names) as writer:
            for number, name in enumerate(names, 1):
                writer.append(spool.read(name))
                progress("write", number, len(names))
        spool.remove()
    return Summary(
        dataset,
        out,
        report,
        len(names),
        resumed,
        len(found.missing),
        found.foreign,
        tuple(notes),
        writer.fingerprint,
        time.monotonic() - began,
    )


def write_report(out: Path, notes: Iterable[Note]) -> Path:
    """The notes as CSV beside the store, replacing an older report. Raises `DataError` when the disk refuses."""
    path = out.with_name(f"{out.stem}_report.csv")
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Note._fields)
            writer.writerows(notes)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def _check_replaceable(out: Path) -> None:
    """An older store is replaced once the new one is whole; anything else is left alone."""
    with reading(out):
        if out.is_dir():
            raise DataError(f"{out}: a folder; --out names the file of the store")
        if not out.exists():
            return
    try:
        with h5py.File(out, "r") as file:
            ours = text_of(file.attrs.get("format", "")) == FORMAT
    except OSError as error:
        if error.errno:  # the system refused, which says nothing of the content
            raise DataError(
                f"{out}: exists and cannot be read ({why(error)}), so that it may be no packed store; "
                f"name another file with --out"
            ) from error
        ours = False
    if not ours:
        raise DataError(f"{out}: exists and is no packed store; remove it or name another file with --out")


def _remaining(found: Found, spool: Spool, say: Callable[[str], None]) -> list[Task]:
    """The clips that are not in the spool, or whose files changed since."""
    if spool.restarted:
        say(f"{spool.path}: left by the preparation of another data set or by another version; starting anew")
    for name in [n for n, entry in spool.entries.items() if entry.stamp != stamp_of(found.clips.get(n, ()))]:
        del spool.entries[name]
    tasks = [(name, places) for name, places in found.clips.items() if name not in spool.entries]
    if spool.entries:
        say(f"{spool.path}: going on from {len(spool.entries):,} of {len(found.clips):,} clips")
    return tasks


def _prepare_all(tasks: Sequence[Task], jobs: int) -> Iterator[list[Prepared]]:
    """The results, some clips at a time, in the order in which they are done."""
    chunks = _chunks(tasks, CLIPS_PER_TASK)
    if jobs == 1:
        yield from map(_prepare_chunk, chunks)
        return
    pool = ProcessPoolExecutor(jobs, initializer=_begin_worker, initargs=(os.getpid(),))
    pending: set[Future[list[Prepared]]] = set()
    try:
        for chunk in chunks:
            pending.add(pool.submit(_prepare_chunk, chunk))
            if len(pending) >= jobs * TASKS_PER_JOB:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process was ended from outside, perhaps for lack of memory; run the same command again, with "
            "fewer --jobs if memory is short: it goes on from where it was"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_chunk(chunk: Sequence[Task]) -> list[Prepared]:
    return [prepare_clip(name, places) for name, places in chunk]


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it is gone, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _chunks(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
