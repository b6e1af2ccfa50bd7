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


def same_clips(one, other):
    return all(torch.equal(one.clip(index), other.clip(index)) for index in range(len(one)))


def test_every_clip_comes_back_as_it_went_in(store, clips):
    assert len(store) == 3
    assert store.nbytes == (4 + 2 + 14) * 25 * 3 * 4
    for index, clip in enumerate(clips):
        np.testing.assert_array_equal(store.clip(index).numpy(), clip)
    assert store.rows.longest(torch.tensor([1, 0, 1])) == 4


def test_round_trip_through_a_file(store, tmp_path):
    path = tmp_path / "below" / "clips.h5"
    store.save(path)
    again = PackedStore.load(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["clips.h5"]
    for name in ("frames", "persons", "labels"):
        assert torch.equal(getattr(again, name), getattr(store, name))
    assert (again.names, again.class_names, again.skeleton) == (store.names, store.class_names, store.skeleton)
    assert (again.joints, again.dtype) == (25, torch.float32)
    assert again.metadata.keys() == store.metadata.keys()
    for column, values in store.metadata.items():
        np.testing.assert_array_equal(again.metadata[column], values)
    assert again.fingerprint == store.fingerprint
    assert same_clips(again, store)


def test_a_store_that_was_compressed_is_read(store, tmp_path):
    """Earlier versions wrote the coordinates with shuffle and lzf."""
    store.save(tmp_path / "clips.h5")
    with h5py.File(tmp_path / "clips.h5", "r+") as file:
        coordinates = file["coordinates"][:]
        del file["coordinates"]
        file.create_dataset("coordinates", data=coordinates, shuffle=True, compression="lzf", fletcher32=True)
    assert same_clips(PackedStore.load(tmp_path / "clips.h5"), store)


def test_float64_is_kept(clips, tmp_path):
    store = PackedStore.from_clips([clip.astype(np.float64) for clip in clips], [0] * 3, ["a", "b", "c"], ["x"], "ntu")
    store.save(tmp_path / "clips.h5")
    again = PackedStore.load(tmp_path / "clips.h5")
    assert again.dtype == torch.float64
    assert same_clips(again, store)


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


def test_a_changed_byte_is_an_error_or_changes_nothing(store, tmp_path):
    path = tmp_path / "clips.h5"
    store.save(path)
    content = path.read_bytes()
    with h5py.File(path) as file:
        chunk = file["coordinates"].id.get_chunk_info(0)
        inside = range(chunk.byte_offset, chunk.byte_offset + chunk.size)
    rng = np.random.default_rng(0)
    refused = 0
    for place in {*rng.integers(0, len(content), 300).tolist(), *rng.choice(inside, 60).tolist()}:
        altered = bytearray(content)
        altered[place] ^= int(rng.integers(1, 256))
        path.write_bytes(altered)
        try:
            again = PackedStore.load(path)
            assert again.fingerprint == store.fingerprint
            assert same_clips(again, store)
            assert place not in inside
        except DataError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
    assert refused > 60


def test_columns_that_were_altered_are_noticed(store, tmp_path):
    path = tmp_path / "clips.h5"
    for column in ("frames", "persons", "labels", "offsets", "digests", "names", "class_names", "metadata/subject"):
        store.save(path)
        with h5py.File(path, "r+") as file:
            values = file[column][:]
            file[column][:] = values[::-1]
        with pytest.raises(DataError, match=r"clips\.h5: not a readable packed store"):
            PackedStore.load(path)


def test_coordinates_that_another_program_changed_are_found_on_demand(store, tmp_path):
    path = tmp_path / "clips.h5"
    store.save(path)
    assert PackedStore.load(path).altered_clips() == []
    with h5py.File(path, "r+") as file:
        file["coordinates"][5, 3, 0] += 1
    assert PackedStore.load(path).altered_clips() == ["b"]


def test_any_h5py_script_reads_it(store, clips, tmp_path):
    store.save(tmp_path / "clips.h5")
    with h5py.File(tmp_path / "clips.h5") as file:
        offsets = file["offsets"][:]
        assert file["names"].asstr()[:].tolist() == ["a", "b", "c"]
        assert file["coordinates"].dtype == np.float32
        for i, clip in enumerate(clips):
            rows = file["coordinates"][offsets[i] : offsets[i + 1]]
            np.testing.assert_array_equal(rows.reshape(file["frames"][i], file["persons"][i], 25, 3), clip)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda file: file.attrs.pop("complete"), "its writing was interrupted"),
        (lambda file: file.attrs.__setitem__("version", 99), "version 99"),
        (lambda file: file.attrs.pop("format"), "not a packed store"),
        (lambda file: file.pop("labels"), "not a readable packed store"),
        (lambda file: file.attrs.pop("skeleton"), "not a readable packed store"),
    ],
)
def test_a_file_that_lacks_something_is_refused(store, tmp_path, change, reason):
    path = tmp_path / "clips.h5"
    store.save(path)
    with h5py.File(path, "r+") as file:
        change(file)
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

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("feeders.store.hdf5.os.fsync", fail)
    with pytest.raises(DataError, match=r"clips\.h5: cannot be written .*No space left.*data\.path"):
        store.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("shapes", "names", "labels", "reason"),
    [
        (((4, 1, 25, 3), (4, 25, 3)), "ab", (0, 0), r"b: shape \(4, 25, 3\)"),
        (((4, 1, 25, 3), (0, 1, 25, 3)), "ab", (0, 0), "b: shape .* is empty"),
        (((4, 1, 25, 3),) * 2 + ((4, 1, 24, 3),), "abc", (0, 0, 0), "c: 24 joints"),
        (((4, 1, 25, 3),) * 2, "aa", (0, 0), "the first is 'a'"),
        (((4, 1, 25, 3),) * 2, "ab", (0, 5), "labels must be in 0 .. 1"),
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
    with pytest.raises(DataError, match="1 clip cannot be packed:\n  b: NaN or infinite"):
        PackedStore.from_clips(clips, [0, 0, 0], ["a", "b", "c"], ["x"], "ntu")
