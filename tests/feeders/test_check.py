"""What the check of a data set says: counts against the known ones, missing and bad clips by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from feeders import BENCHMARKS, DataError, PackedStore, get_benchmark
from feeders.benchmarks.ntu import missing_from_recordings
from feeders.check import check_data, quick_remarks
from feeders.ntu.names import DATASETS, parse_name

CLASSES = DATASETS["ntu60"].class_names
UNUSABLE = "S001C002P005R002A008"


def ntu_store(names: list[str], frames: int = 2) -> PackedStore:
    """Clips of NTU60 by their names."""
    numbers = [parse_name(name) for name in names]
    rng = np.random.default_rng(0)
    return PackedStore.from_clips(
        [rng.standard_normal((frames, 1, 25, 3)).astype(np.float32) for _ in names],
        [number.action - 1 for number in numbers],
        names,
        CLASSES,
        "ntu",
        {column: [getattr(number, column) for number in numbers] for column in ("setup", "camera", "subject")},
    )


def recording(subject: int) -> list[str]:
    """All 180 clips of one recording."""
    return [f"S001C{c:03}P{subject:03}R001A{a:03}" for c in (1, 2, 3) for a in range(1, 61)]


@pytest.mark.parametrize(
    ("name", "total"), [("ntu60-xsub", 56_578), ("ntu120-xset", 113_945), ("nw-ucla", 1484), ("demo", 720)]
)
def test_known_clips_per_class_add_up(name, total):
    benchmark = get_benchmark(name)
    assert len(benchmark.clips_per_class) == benchmark.num_classes
    assert sum(benchmark.clips_per_class) == total == sum(benchmark.expected_clips.values())


def test_known_clips_per_class_of_nw_ucla(real_clips):
    assert tuple(real_clips.store.labels.bincount().tolist()) == get_benchmark("nw-ucla").clips_per_class


def test_a_whole_data_set_is_good(real_clips, tmp_path):
    real_clips.store.save(tmp_path / "nw-ucla.h5")
    findings = check_data(tmp_path / "nw-ucla.h5")
    assert findings.good
    text = "\n".join(findings.lines())
    assert "benchmark nw-ucla, train: 1020 clips, as expected" in text
    assert "benchmark nw-ucla, test: 464 clips, as expected" in text
    assert text.endswith("complete and valid")


def test_missing_clips_of_a_recording_are_named_and_unusable_ones_are_not_missed():
    names = recording(1) + recording(5)
    gone = ["S001C002P001R001A007", "S001C003P005R001A060"]
    assert missing_from_recordings([name for name in names if name not in gone]) == gone
    of_another = [f"S001C{c:03}P005R002A{a:03}" for c in (1, 2, 3) for a in range(1, 61)]
    assert UNUSABLE in DATASETS["ntu60"].missing
    assert missing_from_recordings([name for name in of_another if name not in DATASETS["ntu60"].missing]) == []
    assert missing_from_recordings(["wave_01"]) == []


def test_an_incomplete_store_is_not_good_and_every_fitting_protocol_is_counted(tmp_path):
    store = ntu_store(recording(1) + recording(3))
    store.save(tmp_path / "ntu60.h5")
    findings = check_data(tmp_path / "ntu60.h5")
    assert not findings.good
    assert [counts.benchmark for counts in findings.counts] == ["ntu60-xsub", "ntu60-xview"]
    text = "\n".join(findings.lines())
    assert "benchmark ntu60-xsub, train: 180 clips, expected 40091" in text
    assert "benchmark ntu60-xview, test: 120 clips, expected 18932" in text
    assert f"fingerprint: {store.fingerprint}" in text
    # 948 clips of each class were recorded.
    known = 948 - sum(name.endswith("A001") for name in DATASETS["ntu60"].missing)
    assert f"class 0 (drink water): 6 clips, expected {known}" in text
    assert text.endswith("incomplete or invalid")
    assert findings.missing == findings.bad == ()


def test_bad_clips_are_named(tmp_path):
    path = tmp_path / "ntu60.h5"
    names = [*recording(1), *recording(3), UNUSABLE]
    store = ntu_store(names)
    clips = [store.clip(i).numpy().copy() for i in range(len(names))]
    clips[3][:] = 0
    clips[4] = np.ones((301, 1, 25, 3), np.float32)
    PackedStore.from_clips(clips, store.labels.numpy(), names, CLASSES, "ntu", store.metadata).save(path)
    with h5py.File(path, "r+") as file:
        file["coordinates"][int(file["offsets"][7]), 0, 0] += 1
    findings = check_data(path, get_benchmark("ntu60-xsub"), verify=True)
    reasons = {clip.name: clip.reason for clip in findings.bad}
    assert list(reasons) == [names[3], names[4], UNUSABLE, names[7]]
    for name, reason in (
        (names[3], "zero"),
        (names[4], "301 frames"),
        (names[7], "does not match its digest"),
        (UNUSABLE, "list"),
    ):
        assert reason in reasons[name]
    assert [counts.benchmark for counts in findings.counts] == ["ntu60-xsub"]


def test_bad_files_of_a_folder_are_named(tmp_path):
    (tmp_path / "a01_s01_e00_v01.json").write_text("")
    findings = check_data(tmp_path)
    assert not findings.good
    assert findings.store is None
    assert "  a01_s01_e00_v01.json: the file is empty" in list(findings.lines())[-2]


def test_labels_without_names_are_read_as_the_benchmark_they_fit(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 150)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.eye(120)[:2], x_test=x + 1, y_test=np.eye(120)[:2])
    (counts,) = check_data(tmp_path / "a.npz").counts
    assert counts.benchmark == "ntu120-xsub"
    assert counts.found["train"].sum() == 2


def ntu120_arrays() -> dict[str, np.ndarray]:
    """Labels as whole numbers; of 20 classes beyond those of NTU60."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 4, 150)).astype(np.float32)
    y = np.arange(30) * 4
    return {"x_train": x, "y_train": y, "x_test": x + 1, "y_test": y}


def test_labels_as_numbers_are_read_as_the_benchmark_that_refuses_fewest(tmp_path):
    np.savez(tmp_path / "a.npz", **ntu120_arrays())
    findings = check_data(tmp_path / "a.npz")
    assert findings.bad == ()
    assert [counts.benchmark for counts in findings.counts] == ["ntu120-xsub"]


@pytest.mark.parametrize(("dataset", "protocol"), [("ntu60", "xview"), ("ntu120", "xset")])
def test_annotations_are_read_as_the_data_set_of_their_splits(tmp_path, dataset, protocol):
    names = [f"S00{1 + i % 2}C00{1 + i % 3}P00{1 + i % 3}R001A0{i + 10}" for i in range(6)]
    keypoint = np.random.default_rng(0).standard_normal((1, 4, 25, 3)).astype(np.float16)
    split = {f"{p}_{s}": names[k::2] for p in ("xsub", protocol) for k, s in enumerate(("train", "val"))}
    entries = [{"frame_dir": name, "label": int(name[-3:]) - 1, "keypoint": keypoint} for name in names]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"split": split, "annotations": entries}))
    findings = check_data(tmp_path / "a.pkl")
    assert findings.bad == ()
    assert len(findings.store) == 6
    assert len(findings.store.class_names) == int(dataset[3:])
    assert [counts.benchmark for counts in findings.counts] == [f"{dataset}-{protocol}"]
    asked_for = check_data(tmp_path / "a.pkl", get_benchmark(f"{dataset}-xsub"))
    assert [counts.benchmark for counts in asked_for.counts] == [f"{dataset}-xsub"]


def test_an_empty_side_of_the_benchmark_asked_for_counts_nothing(tmp_path):
    ntu_store(recording(1)).save(tmp_path / "ntu60.h5")
    findings = check_data(tmp_path / "ntu60.h5", get_benchmark("ntu60-xsub"))
    assert not findings.good
    text = "\n".join(findings.lines())
    assert "benchmark ntu60-xsub, train: 180 clips, expected 40091" in text
    assert "benchmark ntu60-xsub, test: 0 clips, expected 16487" in text


def test_a_benchmark_of_unknown_numbers_with_an_empty_side_is_not_whole(tmp_path):
    clip = np.ones((3, 1, 25, 3), np.float32)
    PackedStore.from_clips([clip], [0], ["a"], ["wave"], "ntu", {"side": [0]}).save(tmp_path / "mine.h5")
    (tmp_path / "mine.yaml").write_text("{skeleton: ntu, classes: [wave], path: mine.h5}")
    assert not check_data(tmp_path / "mine.h5", get_benchmark(str(tmp_path / "mine.yaml"))).good


def test_long_lists_are_cut_unless_all_are_asked_for(tmp_path):
    ntu_store(recording(1)[:150] + recording(3)).save(tmp_path / "ntu60.h5")
    findings = check_data(tmp_path / "ntu60.h5")
    assert len(findings.missing) == 30
    missed = [f"  {name}" for name in findings.missing]
    short = list(findings.lines())
    assert [line for line in short if line in missed] == missed[:20]
    assert "  ... and 10 more" in short
    assert [line for line in findings.lines(None) if line in missed] == missed


@pytest.mark.parametrize("method", ["exists", "is_file", "is_dir"])
def test_what_may_not_be_looked_at_is_one_line(tmp_path, monkeypatch, method):
    ntu_store(recording(1)[:2]).save(tmp_path / "ntu60.h5")

    def locked(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, method, locked)
    with pytest.raises(DataError, match=r"ntu60\.h5: cannot be read \(Permission denied\)") as caught:
        check_data(tmp_path / "ntu60.h5")
    assert "\n" not in str(caught.value)


def test_a_locked_folder_is_not_called_empty(tmp_path, monkeypatch):
    def locked(place: str) -> list[str]:
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr("os.listdir", locked)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        check_data(tmp_path, get_benchmark("nw-ucla"))


def test_the_quick_check_counts_and_names():
    store = ntu_store([*recording(1), *recording(3), UNUSABLE])
    remarks = quick_remarks(store, get_benchmark("ntu60-xsub"))
    assert remarks == [
        "benchmark ntu60-xsub: 181 train clips, 40091 expected",
        "benchmark ntu60-xsub: 180 test clips, 16487 expected",
        f"1 clip known to have a bad skeleton: {UNUSABLE}",
    ]


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is nothing"):
        check_data(tmp_path / "absent")
    (tmp_path / "labels.csv").touch()
    with pytest.raises(DataError, match="name the YAML file of its benchmark with --benchmark"):
        check_data(tmp_path)
    assert BENCHMARKS.keys() >= {"demo", "nw-ucla"}
