"""A user's own clips and benchmark: any skeleton, a folder of arrays and a table, a YAML file; every mistake named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from feeders import BadClipsError, DataError, Feeder, PackedStore, get_benchmark, open_store
from feeders.benchmarks.own import read_own_benchmark

SKELETON = """
name: hand
joints: [wrist, palm, thumb, finger]
root: wrist
centre: palm
parents: {palm: wrist, thumb: palm, finger: palm}
"""
BENCHMARK = "{skeleton: hand.yaml, classes: [wave, grab], path: clips, persons: 2, window: 8}"
TABLE = """name,label,side,subject
a,wave,train,1
b.npy,1,test,2
below/c, grab , train,3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "clips" / "below").mkdir(parents=True)
    np.save(tmp_path / "clips" / "a.npy", rng.standard_normal((5, 4, 3)))
    np.save(tmp_path / "clips" / "b.npy", rng.standard_normal((3, 2, 4, 3)).astype(np.float32))
    np.save(tmp_path / "clips" / "below" / "c.npy", np.arange(24).reshape(2, 4, 3))
    (tmp_path / "clips" / "labels.csv").write_text(TABLE)
    (tmp_path / "hand.yaml").write_text(SKELETON)
    (tmp_path / "mine.yaml").write_text(BENCHMARK)
    return tmp_path


def opened(folder: Path, **options: object):
    return open_store(get_benchmark(str(folder / "mine.yaml")), **options)


def test_pixels_are_no_coordinates_of_a_2d_clip(folder):
    clips = folder / "clips"
    for name, largest in (("a", 1.5), ("b", 640.0), ("below/c", 9.0)):
        clip = np.full((4, 1, 17, 3), largest)
        clip[..., 2] = 0.9
        np.save(clips / f"{name}.npy", clip)
    (folder / "mine.yaml").write_text("{skeleton: coco, classes: [wave, grab], path: clips, transforms: 2d}")
    with pytest.raises(BadClipsError, match=r"1 of 3 clips(?s:.*)b: coordinates up to 640: .*normalise_keypoints"):
        opened(folder)


def test_clips_come_as_the_table_says(folder):
    store, skipped, remarks = opened(folder)
    assert skipped == ()
    assert store.names == ("a", "b", "below/c")
    assert store.labels.tolist() == [0, 1, 1]
    assert store.persons.tolist() == [1, 2, 1]
    assert (store.class_names, store.skeleton, store.joints) == (("wave", "grab"), "hand", 4)
    assert store.metadata["subject"].tolist() == [1, 2, 3]
    single = np.load(folder / "clips" / "a.npy").astype(np.float32)
    np.testing.assert_array_equal(store.clip(0).numpy()[:, 0], single)
    assert store.clip(2).flatten().tolist() == list(range(24))
    assert len(remarks) == 1
    assert "no test clip of 1 of 2 classes: wave" in remarks[0]


def test_batches_of_any_skeleton(folder):
    benchmark = read_own_benchmark(folder / "mine.yaml")
    store = open_store(benchmark).store
    batch = next(Feeder(store, benchmark, "train", stream="bone").epoch(0, 2))
    assert batch.x.shape == (2, 3, 8, 4, 2)
    assert Feeder(store, benchmark, "test").names == ("b",)


def test_a_split_of_ones_own_and_a_packed_store(folder):
    (folder / "mine.yaml").write_text(
        "{skeleton: hand.yaml, classes: [wave, grab], path: clips, persons: 2, "
        "split: {column: subject, train: [1, 2], test: [3]}}"
    )
    lines = [line.split(",") for line in TABLE.splitlines()]
    (folder / "clips" / "labels.csv").write_text("\n".join(",".join([*line[:2], line[3]]) for line in lines))
    benchmark = read_own_benchmark(folder / "mine.yaml")
    store = open_store(benchmark).store
    assert Feeder(store, benchmark, "test").names == ("below/c",)
    store.save(folder / "packed.h5")
    assert open_store(benchmark, folder / "packed.h5").store.fingerprint == store.fingerprint


def test_moving_the_folder_changes_nothing(folder, tmp_path):
    before = opened(folder).store.fingerprint
    moved = folder.rename(tmp_path.with_name(tmp_path.name + "-elsewhere"))
    assert opened(moved).store.fingerprint == before


def test_every_bad_clip_is_named(folder):
    clips = folder / "clips"
    np.save(clips / "flat.npy", np.zeros((5, 4, 2)))
    np.save(clips / "five.npy", np.ones((5, 5, 3)))
    np.save(clips / "zero.npy", np.zeros((5, 4, 3)))
    np.save(clips / "texts.npy", np.array([["a"]]))
    (clips / "broken.npy").write_bytes(b"\x93NUMPY")
    np.save(clips / "forgotten.npy", np.ones((5, 4, 3)))
    rows = ["flat,wave,train,1", "five,wave,train,1", "zero,wave,train,1", "texts,wave,train,1", "broken,wave,train,1"]
    rows += ["gone,wave,train,1", "a,wave,train,1", "d,wavy,train,1", "e,7,train,1", "f,wave,tests,1", "g,wave,train,x"]
    np.save(clips / "e.npy", np.ones((5, 4, 3)))
    (clips / "labels.csv").write_text(TABLE + "\n".join(rows))
    with pytest.raises(BadClipsError) as caught:
        opened(folder)
    reasons = {clip.name: clip.reason for clip in caught.value.bad_clips}
    for name, reason in {
        "flat": "shape (5, 4, 2)",
        "five": "5 joints, the skeleton hand has 4",
        "zero": "every coordinate is zero",
        "texts": "expected numbers",
        "broken": "not a readable .npy",
        "gone": "no such .npy file",
        "a": "line 11 of labels.csv names it again",
        "d": "did you mean 'wave'",
        "e": "label 7 must be in 0 .. 1",
        "f": "neither train nor test",
        "g": "not an integer",
        "forgotten": "has no line for it",
    }.items():
        assert reason in reasons.pop(name)
    assert reasons == {}
    left = opened(folder, on_bad_clip="skip")
    assert left.store.names == ("a", "b", "below/c")
    assert len(left.skipped) == 12


def test_too_many_persons_names_outside_and_pickles_are_bad_clips(folder):
    clips = folder / "clips"
    np.save(clips / "crowd.npy", np.ones((5, 3, 4, 3)))
    np.save(clips / "objects.npy", np.array([{}]), allow_pickle=True)
    (clips / "pickle.npy").write_bytes(pickle.dumps([1]))
    outside = folder / "outside.npy"
    np.save(outside, np.ones((5, 4, 3)))
    names = ["crowd", "objects", "pickle", "../outside", str(outside), "below/../../outside"]
    (clips / "labels.csv").write_text(TABLE + "\n".join(f"{name},wave,train,1" for name in names))
    left = opened(folder, on_bad_clip="skip")
    assert left.store.names == ("a", "b", "below/c")
    reasons = [clip.reason for clip in left.skipped]
    assert reasons[0] == "3 persons, the benchmark has at most 2"
    for reason in reasons[1:3]:
        assert reason == "is not a readable .npy file (it holds other things than plain numbers, or is damaged)"
    for reason in reasons[3:]:
        assert "outside of the folder" in reason
    assert len(reasons) == 6


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("file,label\n", "has no column name, only file, label"),
        ("", "has no column name or label, only nothing"),
        ("name,label\na,wave,3\n", "line 2: not as many columns"),
        ("name,label\na\n", "line 2: not as many columns"),
        (b"name,label\n\xff", "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used(folder, table, reason):
    file = folder / "clips" / "labels.csv"
    file.write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(DataError, match=reason) as caught:
        opened(folder)
    assert str(file) in str(caught.value)


def test_a_folder_needs_one_table(folder):
    (folder / "clips" / "other.csv").write_text(TABLE)
    with pytest.raises(DataError, match=r"exactly one \.csv table of its clips, found labels\.csv, other\.csv"):
        opened(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{skeletn: ntu, classes: [a], path: x}", "skeletn: unknown key .did you mean 'skeleton'"),
        ("{classes: [a], path: x}", "skeleton: the key is missing"),
        ("{skeleton: ntv, classes: [a], path: x}", "did you mean 'ntu'"),
        ("{skeleton: gone.yaml, classes: [a], path: x}", "no such file: .*gone.yaml"),
        ("{skeleton: ntu, classes: [a, a], path: x}", "classes: a name appears twice"),
        ("{skeleton: ntu, classes: [1], path: x}", "classes: must be a name, got 1"),
        ("{skeleton: ntu, classes: [a], path: x, persons: 0}", "persons: must be an integer >= 1, got 0"),
        (
            "{skeleton: ntu, classes: [a], path: x, transforms: mine}",
            "transforms: must be one of ntu, nw-ucla, 2d, got 'mine'",
        ),
        ("{skeleton: ntu, classes: [a], path: x, transforms: nw-ucla, persons: 2}", "take one person"),
        ("{skeleton: ntu, classes: [a], path: x, split: {column: s, train: [1]}}", "split: needs the keys"),
        ("{skeleton: ntu, classes: [a], path: x, split: {column: s, train: [1], test: [1]}}", "1 is on both sides"),
        ("[1]", "must be a mapping"),
        ("{", "not valid YAML"),
    ],
)
def test_mistakes_in_the_benchmark_file(tmp_path, content, reason):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(DataError, match=reason) as caught:
        get_benchmark(str(file))
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_benchmark_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"mine\.yaml: no such file"):
        get_benchmark(str(tmp_path / "mine.yaml"))


def test_a_store_on_another_skeleton_is_refused(folder, make_store):
    make_store([30]).save(folder / "other.h5")
    with pytest.raises(DataError, match="do not fit benchmark mine: skeleton ntu, expected hand"):
        opened(folder, path=folder / "other.h5")
    assert len(PackedStore.load(folder / "other.h5")) == 1
