"""From raw clips to a store: the same whatever the processes and the kind of source; no clip is lost."""

from __future__ import annotations

import csv
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from feeders import DataError, PackedStore
from feeders.ntu import prepare as preparation
from feeders.ntu.actors import choose_actors
from feeders.ntu.names import get_dataset
from feeders.ntu.prepare import Summary, prepare
from feeders.ntu.raw import parse_skeleton
from tests.feeders.ntu.oracle import Track, frames_of, text_of

NTU60, NTU120 = get_dataset("ntu60"), get_dataset("ntu120")
GOOD = text_of(frames_of(Track(72_057_594_037_900_000, 0, 12, 0.3)))


def run(raw: Path, out: Path, jobs: int = 1, dataset=NTU120, **options) -> Summary:
    return prepare([raw], dataset, out, jobs, **options)


def report(summary: Summary) -> list[tuple[str, ...]]:
    """Clip, file name and kind of each line."""
    with summary.report.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["clip"], Path(row["file"]).name, row["kind"]) for row in rows]


@pytest.fixture(scope="module")
def expected(raw_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return run(raw_tree, tmp_path_factory.mktemp("out") / "store.h5")


@pytest.fixture(autouse=True)
def _small_tasks(monkeypatch):
    monkeypatch.setattr(preparation, "CLIPS_PER_TASK", 3)


def test_every_clip_is_there_with_what_its_name_says(raw_tree, expected):
    store = PackedStore.load(expected.store)
    files = {file.stem: file for file in raw_tree.rglob("*.skeleton")}
    assert list(store.names) == sorted(files)
    assert store.class_names == NTU120.class_names
    for i, name in enumerate(store.names):
        actors = choose_actors(parse_skeleton(files[name].read_bytes()))
        np.testing.assert_array_equal(store.clip(i).numpy(), actors.positions)
        columns = {column: int(values[i]) for column, values in store.metadata.items()}
        assert columns == {
            "setup": int(name[1:4]),
            "camera": int(name[5:8]),
            "subject": int(name[9:12]),
            "replication": int(name[13:16]),
            "alone": int(actors.alone),
        }
        assert int(store.labels[i]) == int(name[17:20]) - 1
    assert (expected.clips, expected.absent, expected.notes) == (24, 113_945 - 24, ())
    assert not expected.complete
    assert store.fingerprint == expected.fingerprint


@pytest.mark.parametrize("jobs", [2, 3])
def test_the_result_does_not_depend_on_the_processes(raw_tree, expected, tmp_path, jobs):
    assert run(raw_tree, tmp_path / "store.h5", jobs).fingerprint == expected.fingerprint


def test_archives_give_the_same_store(raw_archives, expected, tmp_path):
    assert run(raw_archives, tmp_path / "store.h5").fingerprint == expected.fingerprint


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_run_leaves_nothing(raw_tree, tmp_path, jobs):
    def progress(done: int, total: int) -> None:
        if done >= 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(raw_tree, tmp_path / "store.h5", jobs, progress=progress)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("jobs", "cores", "processes"), [(150, 64, 8), (150, 3, 3), (2, 64, 2)])
def test_no_more_processes_than_tasks_and_cores(raw_tree, tmp_path, monkeypatch, jobs, cores, processes):
    started = []

    def pool(workers: int, **_: object) -> None:
        started.append(workers)
        raise DataError("no pool in this test")

    monkeypatch.setattr(preparation, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(preparation.os, "cpu_count", lambda: cores)
    with pytest.raises(DataError, match="no pool"):
        run(raw_tree, tmp_path / "store.h5", jobs)
    assert started == [processes]


def test_a_clip_that_was_repaired_is_prepared_in_the_next_run(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "store.h5"
    raw.mkdir()
    for action, text in ((1, GOOD), (2, b"nonsense")):
        (raw / f"S001C001P001R001A{action:03}.skeleton").write_bytes(text)
    assert run(raw, out).clips == 1
    (raw / "S001C001P001R001A002.skeleton").write_bytes(GOOD)
    summary = run(raw, out)
    assert (summary.clips, summary.notes) == (2, ())
    assert report(summary) == []


def test_a_failed_writing_leaves_nothing(raw_tree, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("feeders.store.hdf5.os.fsync", refuse)
    with pytest.raises(DataError, match="No space left"):
        run(raw_tree, tmp_path / "store.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["store_report.csv"]


def test_a_file_name_that_is_no_text_is_reported(tmp_path):
    (tmp_path / "S001C001P001R001A001.skeleton").write_bytes(GOOD)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.skeleton")).write_bytes(GOOD)
    summary = run(tmp_path, tmp_path / "out" / "store.h5", dataset=NTU60)
    assert report(summary) == [("", r"\udcff.skeleton", "skipped")]


def test_every_bad_file_is_reported_and_the_rest_is_prepared(tmp_path):
    raw = tmp_path / "raw"
    (raw / "a").mkdir(parents=True)
    (raw / "b").mkdir()
    name = "S001C001P001R001A{:03}.skeleton".format
    still = Track(7, 0, 3, 0.3)
    still.joints[:] = 0
    short = frames_of(Track(7, 0, 5, 0.3), Track(8, 0, 4, 0.3))
    long = frames_of(Track(7, 0, 301, 0.3))
    other = text_of(frames_of(Track(9, 0, 12, 0.2)))
    files = {
        "a": {1: GOOD, 2: b"", 3: GOOD[:-500], 4: text_of(frames_of(still)), 5: text_of(short), 6: text_of(long)},
        "b": {1: GOOD, 5: other, 7: GOOD.replace(b"\n25\n", b"\n24\n"), 2: GOOD},
    }
    for folder, clips in files.items():
        for action, text in clips.items():
            (raw / folder / name(action)).write_bytes(text)
    (raw / "a" / "notes.skeleton").write_text("x")
    with zipfile.ZipFile(raw / "empty.zip", "w"):
        pass
    summary = run(raw, tmp_path / "store.h5", dataset=NTU60)
    store = PackedStore.load(summary.store)
    assert [n[17:] for n in store.names] == ["001", "002", "005", "006"]
    assert store.frames.tolist() == [12, 12, 5, 301]
    stem = "S001C001P001R001A{:03}".format
    assert report(summary) == [
        ("", "notes.skeleton", "skipped"),
        ("", "empty.zip", "skipped"),
        (stem(1), name(1), "duplicate"),
        (stem(2), name(2), "damaged copy"),
        (stem(3), name(3), "skipped"),
        (stem(4), name(4), "skipped"),
        (stem(5), name(5), "kept"),
        (stem(5), name(5), "conflict"),
        (stem(6), name(6), "kept"),
        (stem(7), name(7), "skipped"),
    ]
    reasons = {(note.clip[17:], note.kind): note.reason for note in summary.notes}
    assert "line" in reasons["003", "skipped"]
    assert "longest is kept" in reasons["005", "kept"]
    assert "differs from" in reasons["005", "conflict"]
    assert "301 frames" in reasons["006", "kept"]
    assert f"the file is empty; the copy at {raw / 'b' / name(2)} was used" in reasons["002", "damaged copy"]
    assert not summary.complete


@pytest.mark.parametrize("damaged", ["a", "b"])
def test_a_damaged_copy_beside_a_good_one_leaves_the_result_complete(tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(type(NTU60), "usable", property(lambda _: 1))
    raw, name = tmp_path / "raw", "S001C001P001R001A001.skeleton"
    for folder in "ab":
        (raw / folder).mkdir(parents=True)
        (raw / folder / name).write_bytes(GOOD[:-500] if folder == damaged else GOOD)
    summary = run(raw, tmp_path / "store.h5", dataset=NTU60)
    (note,) = summary.notes
    assert (note.kind, note.file) == ("damaged copy", str(raw / damaged / name))
    good = raw / ("b" if damaged == "a" else "a") / name
    assert note.reason.endswith(f"the copy at {good} was used")
    assert summary.complete


def test_a_file_that_may_not_be_read_is_not_called_something_to_remove(raw_tree, tmp_path, monkeypatch):
    out = tmp_path / "store.h5"
    out.write_bytes(b"x")

    def locked(*_: object, **__: object) -> None:
        raise PermissionError(13, "Unable to synchronously open file (errno = 13,\nflags = 0)")

    for target in ("feeders.store.hdf5.h5py.File", "pathlib.Path.stat"):
        with monkeypatch.context() as patch:
            patch.setattr(target, locked)
            with pytest.raises(DataError, match=r"store\.h5: .*cannot be read \(Permission denied\)") as caught:
                run(raw_tree, out)
        assert "\n" not in str(caught.value)
        assert "remove" not in str(caught.value)


def test_no_usable_clip_is_an_error_that_names_one(tmp_path):
    (tmp_path / "S001C001P001R001A001.skeleton").write_bytes(b"1\nx\n")
    with pytest.raises(DataError, match=r"none of 1 clips can be used.*A001\.skeleton: line 2: 'x' is not a number"):
        run(tmp_path, tmp_path / "out" / "store.h5")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["store_report.csv"]


def test_a_store_is_replaced_and_nothing_else(tmp_path, raw_tree, expected):
    out = tmp_path / "store.h5"
    shutil.copy(expected.store, out)
    assert run(raw_tree, out).fingerprint == expected.fingerprint
    for content in (b"my thesis", b""):
        out.write_bytes(content)
        with pytest.raises(DataError, match="not a packed store"):
            run(raw_tree, out)
        assert out.read_bytes() == content
    with pytest.raises(DataError, match="a folder"):
        run(raw_tree, tmp_path)


def test_completeness_is_judged_by_the_known_number(raw_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(type(NTU120), "usable", property(lambda _: 24))
    assert run(raw_tree, tmp_path / "store.h5").complete
