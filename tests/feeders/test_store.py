"""The packed store in memory and as a file."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from feeders import DataError, PackedStore


def arrays(shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.fixture
def clips():
    return arrays([(4, 1, 25, 3), (1, 2, 25, 3), (7, 2, 25, 3)])


@pytest.fixture
def store(clips):
    return PackedStore.from_clips(
        clips, [0, 2, 1], ["a", "b", "c"], ["sit", "stand", "göra"], "ntu", {"subject": [1, 1, 9], "camera": [3, 2, 1]}
    )


def test_every_clip_comes_back_as_it_went_in(store, clips):
    assert len(store) == 3
    assert store.coordinates.shape == (4 + 2 + 14, 25, 3)
    assert store.offsets.tolist() == [0, 4, 6]
    for index, clip in enumerate(clips):
        np.testing.assert_array_equal(store.clip(index).numpy(), clip)
    assert store.longest(torch.tensor([0, 1])) == 4


def test_round_trip_through_a_file(store, tmp_path):
    path = tmp_path / "below" / "clips.h5"
    store.save(path)
    again = PackedStore.load(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["clips.h5"]
    for name in ("coordinates", "frames", "persons", "labels", "offsets"):
        assert torch.equal(getattr(again, name), getattr(store, name))
    assert (again.names, again.class_names, again.skeleton) == (store.names, store.class_names, store.skeleton)
    assert again.metadata.keys() == store.metadata.keys()
    for column, values in store.metadata.items():
        np.testing.assert_array_equal(again.metadata[column], values)
    assert again.fingerprint == store.fingerprint


def test_float64_is_kept(clips, tmp_path):
    store = PackedStore.from_clips([clip.astype(np.float64) for clip in clips], [0] * 3, ["a", "b", "c"], ["x"], "ntu")
    store.save(tmp_path / "clips.h5")
    assert PackedStore.load(tmp_path / "clips.h5").coordinates.dtype == torch.float64


def test_the_fingerprint_tells_contents_apart(store, clips):
    def fingerprint(labels=(0, 2, 1), names=("a", "b", "c"), subjects=(1, 1, 9), skeleton="ntu", data=clips):
        columns = {"camera": [3, 2, 1], "subject": subjects}
        return PackedStore.from_clips(data, labels, names, ["sit", "stand", "göra"], skeleton, columns).fingerprint

    assert fingerprint() == store.fingerprint
    nudged = [clips[0], clips[1], np.nextafter(clips[2], 9, dtype=np.float32)]
    others = [
        fingerprint(labels=(0, 1, 1)),
        fingerprint(names=("a", "b", "d")),
        fingerprint(subjects=(1, 2, 9)),
        fingerprint(skeleton="mine"),
        fingerprint(data=nudged),
    ]
    assert len({store.fingerprint, *others}) == 6


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(store, tmp_path, part):
    path = tmp_path / "clips.h5"
    store.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(DataError, match=r"clips\.h5: not a readable packed store"):
        PackedStore.load(path)


def test_one_changed_bit_is_noticed(store, tmp_path):
    path = tmp_path / "clips.h5"
    store.save(path)
    content = bytearray(path.read_bytes())
    place = content.index(store.coordinates[5, 5].numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="fingerprint"):
        PackedStore.load(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.attrs.pop("complete"), "its writing was interrupted"),
        (lambda file: file.attrs.__setitem__("version", 99), "version 99"),
        (lambda file: file.attrs.pop("format"), "not a packed store"),
        (lambda file: file.pop("labels"), "not a readable packed store"),
        (lambda file: file.attrs.pop("skeleton"), "not a readable packed store"),
    ],
)
def test_a_file_that_lacks_something_is_refused(store, tmp_path, spoil, reason):
    path = tmp_path / "clips.h5"
    store.save(path)
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(DataError, match=reason) as caught:
        PackedStore.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_foreign_and_empty_files_are_refused(tmp_path):
    (tmp_path / "empty.h5").touch()
    (tmp_path / "text.h5").write_text("no HDF5")
    for name, reason in (("absent.h5", "no such file"), ("empty.h5", "not a readable"), ("text.h5", "not a readable")):
        with pytest.raises(DataError, match=rf"{name}: {reason}"):
            PackedStore.load(tmp_path / name)


def test_an_interrupted_write_leaves_the_old_file(store, tmp_path, monkeypatch):
    path = tmp_path / "clips.h5"
    store.save(path)
    before = path.read_bytes()

    def fail(_file, _contents):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("feeders.store_file._fill", fail)
    with pytest.raises(DataError, match=r"clips\.h5: cannot be written .*No space left.*data\.path"):
        store.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("shapes", "names", "labels", "reason"),
    [
        (((4, 1, 25, 3), (4, 25, 3)), "ab", (0, 0), r"b: shape \(4, 25, 3\)"),
        (((4, 1, 25, 3), (0, 1, 25, 3)), "ab", (0, 0), "b: shape .* holds nothing"),
        (((4, 1, 25, 3),) * 2 + ((4, 1, 24, 3),), "abc", (0, 0, 0), "c: 24 joints"),
        (((4, 1, 25, 3),) * 2, "aa", (0, 0), "the first is 'a'"),
        (((4, 1, 25, 3),) * 2, "ab", (0, 5), "labels must lie in 0 .. 1"),
        (((4, 1, 25, 3),) * 2, "ab", (0,), "labels has 1 entries for 2 clips"),
        ((), "", (), "at least one clip"),
    ],
)
def test_clips_that_do_not_fit_are_refused(shapes, names, labels, reason):
    with pytest.raises(DataError, match=reason):
        PackedStore.from_clips(arrays(shapes), labels, list(names), ["x", "y"], "ntu")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused_by_clip_name(clips, value):
    clips[1][0, 0, 0, 0] = value
    with pytest.raises(DataError, match="1 clips cannot be packed:\n  b: NaN or infinite"):
        PackedStore.from_clips(clips, [0, 0, 0], ["a", "b", "c"], ["x"], "ntu")
