"""Published arrays: clips as they are, read in blocks, refused when they are another benchmark's or damaged."""

from __future__ import annotations

import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from feeders import DataError, Feeder, PackedStore, get_benchmark, open_store
from feeders.feeder import ALONE
from feeders.readers import published_npz
from feeders.readers.published_npz import read_published_npz

XSUB = get_benchmark("ntu60-xsub")
LENGTHS = {"train": (4, 1, 9), "test": (2, 6)}


def arrays(classes: int = 60) -> dict[str, np.ndarray]:
    """Clips of 10 padded frames; every second one has two persons."""
    rng = np.random.default_rng(0)
    content = {}
    for split, lengths in LENGTHS.items():
        x = np.zeros((len(lengths), 10, 150), np.float32)
        for i, frames in enumerate(lengths):
            x[i, :frames, : 75 * (1 + i % 2)] = rng.standard_normal((frames, 75 * (1 + i % 2)))
        content[f"x_{split}"] = x
        content[f"y_{split}"] = np.eye(classes)[[7 * i + 1 for i in range(len(lengths))]]
    return content


@pytest.fixture
def write(tmp_path):
    def to_file(content, save=np.savez):
        save(tmp_path / "NTU60_CS.npz", **content)
        return tmp_path / "NTU60_CS.npz"

    return to_file


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_clips_names_labels_and_sides(write, save):
    content = arrays()
    store = open_store(XSUB, write(content, save)).store
    assert store.names == ("train_0", "train_1", "train_2", "test_0", "test_1")
    assert store.frames.tolist() == [4, 1, 9, 2, 6]
    assert store.persons.tolist() == [1, 2, 1, 1, 2]
    assert store.labels.tolist() == [1, 8, 15, 1, 8]
    assert (store.class_names[0], len(store.class_names)) == ("drink water", 60)
    padded = np.concatenate([content["x_train"], content["x_test"]]).reshape(5, 10, 2, 25, 3)
    for index in range(5):
        frames, persons = int(store.frames[index]), int(store.persons[index])
        np.testing.assert_array_equal(store.clip(index).numpy(), padded[index, :frames, :persons])
    assert Feeder(store, XSUB, "train").names == ("train_0", "train_1", "train_2")
    assert Feeder(store, XSUB, "test").labels.tolist() == [1, 8]


@pytest.mark.parametrize("name", ["ntu60_xsub", "ntu60_xview", "ntu120_xsub", "ntu120_xset"])
def test_arrays_of_the_published_scripts(shared, name):
    path = shared / "parity" / "ntu_pipeline" / f"expected_{name}.npz"
    store, bad = read_published_npz(path, get_benchmark(name.replace("_", "-")))
    assert bad == []
    with np.load(path) as expected:
        index = 0
        for split in ("train", "test"):
            for padded, row in zip(expected[f"x_{split}"], expected[f"y_{split}"], strict=True):
                clip = store.clip(index).numpy()
                whole = np.zeros((len(padded), 2, 25, 3), np.float32)
                whole[: len(clip), : clip.shape[1]] = clip
                if store.metadata.get(ALONE, np.zeros(len(store)))[index]:
                    whole[: len(clip), 1] = clip[:, 0]
                np.testing.assert_array_equal(whole.reshape(-1, 150), padded)
                assert padded[len(clip) - 1].any()
                assert row[store.labels[index]] == 1
                index += 1
    assert index == len(store)


def test_a_side_alone(write):
    store, _ = read_published_npz(write(arrays()), XSUB, splits=("test",))
    assert store.names == ("test_0", "test_1")


def test_a_frame_without_coordinates_ends_the_clip_as_published(write):
    """The number of frames that are not zero is taken as the end."""
    content = arrays()
    content["x_train"][2, 3] = 0
    store, _ = read_published_npz(write(content), XSUB)
    np.testing.assert_array_equal(store.clip(2).numpy().reshape(8, 75), content["x_train"][2, :8, :75])


def test_a_copied_first_person_stays(write):
    content = arrays()
    content["x_train"][0, :, 75:] = content["x_train"][0, :, :75]
    store, _ = read_published_npz(write(content), XSUB)
    clip = store.clip(0)
    assert clip.shape[1] == 2
    assert (clip[:, 0] == clip[:, 1]).all()


def test_a_copied_first_person_is_made_again_by_the_feeder_unless_zeros_are_wanted(write):
    content, benchmark = arrays(120), get_benchmark("ntu120-xsub")
    content["x_train"][0, :, 75:] = content["x_train"][0, :, :75]
    store, _ = read_published_npz(write(content), benchmark)
    assert store.persons.tolist() == [1, 2, 1, 1, 2]
    assert store.metadata[ALONE].tolist() == [1, 0, 0, 0, 0]

    copied, zeros = (
        Feeder(store, benchmark, "train", second_person=choice).feed(torch.arange(3), epoch=0).x
        for choice in (None, "zero")
    )
    assert [bool(x[..., 1].any()) for x in copied] == [True, True, False]
    assert [torch.equal(x[..., 0], x[..., 1]) for x in copied] == [True, False, False]
    assert [bool(x[..., 1].any()) for x in zeros] == [False, True, False]


def test_memory_stays_near_what_is_kept(write, monkeypatch):
    monkeypatch.setattr(published_npz, "BLOCK", 2**20)
    x = np.zeros((200, 300, 150), np.float32)
    x[:, :5, :75] = 1
    small = arrays()
    path = write({"x_train": x, "y_train": np.eye(60)[[0] * 200], "x_test": small["x_test"], "y_test": small["y_test"]})
    kept = 205 * 5 * 75 * 4
    tracemalloc.start()
    read_published_npz(path, XSUB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes / 5
    assert peak < 2 * kept + 6 * 2**20


def test_bad_clips_are_named(write):
    content = arrays()
    content["x_train"][0] = 0
    content["x_test"][1, 2, 3] = np.nan
    content["y_train"][1] = 0
    _, bad = read_published_npz(write(content), XSUB)
    assert [clip.name for clip in bad] == ["train_0", "train_1", "test_1"]
    assert "is empty" in bad[0].reason
    assert "label -1" in bad[1].reason
    assert "NaN" in bad[2].reason


def test_one_hot_labels_may_be_bool(write):
    content = arrays()
    expected, _ = read_published_npz(write(content), XSUB)
    store, bad = read_published_npz(write(content | {"y_train": content["y_train"].astype(bool)}), XSUB)
    assert bad == []
    assert store.fingerprint == expected.fingerprint


def test_column_order_is_named_with_the_mend(write):
    content = arrays()
    content["x_train"] = np.asfortranarray(content["x_train"])
    with pytest.raises(DataError, match=r"x_train\.npy is stored column after column.*ascontiguousarray") as caught:
        read_published_npz(write(content), XSUB)
    assert str(caught.value).startswith(str(write(content)))


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_are_refused_quietly(write):
    content = arrays()
    content["x_test"] = content["x_test"].astype(np.float64)
    content["x_test"][1, 2, :3] = 1e300, -1e300, 3e38
    content["x_train"][1, 0, :3] = 3e38
    store, bad = read_published_npz(write(content), XSUB)
    assert [clip.name for clip in bad] == ["test_1"]
    assert "NaN or infinite" in bad[0].reason
    assert len(store) == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content.pop("y_test"), "lacks y_test.npy"),
        (lambda content: content.update(x_test=np.zeros((2, 10, 140))), r"x_test has shape \(2, 10, 140\)"),
        (lambda content: content.update(y_test=np.eye(60)[:1]), "2 clips in x_test, 1 labels in y_test"),
        (lambda content: content.update(x_test=np.array([{}])), "not a readable .npz archive"),
    ],
)
def test_an_archive_of_another_kind_is_refused(write, change, reason):
    content = arrays()
    change(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_published_npz(write(content), XSUB)
    assert "NTU60_CS.npz: " in str(caught.value)


def test_another_benchmark_is_refused(write, monkeypatch):
    with pytest.raises(DataError, match=r"benchmark ntu120-xsub needs \(3, 120\)"):
        read_published_npz(write(arrays()), get_benchmark("ntu120-xsub"))
    other = get_benchmark("ntu60-xview")
    monkeypatch.setitem(other.expected_clips, "train", 3)
    monkeypatch.setitem(other.expected_clips, "test", 2)
    with pytest.raises(DataError, match=r"3 training and 2 test clips are those of ntu60-xview, not of ntu60-xsub"):
        read_published_npz(write(arrays()), XSUB)


def test_a_whole_store_made_of_it_serves_no_other_protocol(write, tmp_path, monkeypatch):
    open_store(XSUB, write(arrays())).store.save(tmp_path / "packed.h5")
    assert open_store(XSUB, tmp_path / "packed.h5").store.frames.tolist() == [4, 1, 9, 2, 6]
    monkeypatch.setitem(XSUB.expected_clips, "train", 3)
    monkeypatch.setitem(XSUB.expected_clips, "test", 2)
    with pytest.raises(DataError, match=r"3 training and 2 test clips are those of ntu60-xsub, not of ntu60-xview"):
        open_store(get_benchmark("ntu60-xview"), tmp_path / "packed.h5")
    assert isinstance(PackedStore.load(tmp_path / "packed.h5"), PackedStore)


@pytest.mark.parametrize("part", [0.2, 0.6, 0.99])
def test_a_truncated_archive_is_refused(write, part):
    path = write(arrays())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(DataError, match=r"NTU60_CS\.npz: not a readable \.npz archive"):
        read_published_npz(path, XSUB)


def test_a_changed_byte_in_the_arrays_is_noticed(write):
    path = write(arrays())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("x_train.npy").header_offset + 400
    content = bytearray(path.read_bytes())
    content[start] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a readable \.npz archive .*CRC"):
        read_published_npz(path, XSUB)
