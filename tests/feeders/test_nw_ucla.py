"""The NW-UCLA reader and the opening of data: real clips, and every kind of bad one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from feeders import BadClipsError, DataError, Feeder, PackedStore, get_benchmark, open_store, place_store
from feeders.split import split_clips

BENCHMARK = get_benchmark("nw-ucla")
GOOD = {"a01_s01_e00_v01": 1, "a08_s02_e01_v02": 7, "a12_s03_e02_v03": 10, "a12_s03_e03_v03": 10}


def content(name: str, label: int, frames: int = 3) -> dict:
    skeletons = np.random.default_rng(len(name) + frames).normal(0, 1, (frames, 20, 3)).round(6).tolist()
    return {"file_name": name, "skeletons": skeletons, "label": label}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, label in GOOD.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content(name, label)))
    return tmp_path


def test_real_clips(real_clips):
    store = real_clips.store
    assert real_clips.skipped == ()
    assert real_clips.remarks == ()
    assert len(store) == 1484
    assert store.dtype == torch.float64
    assert int(store.frames.sum()) == 58_534
    assert (int(store.frames.min()), int(store.frames.median()), int(store.frames.max())) == (1, 31, 201)
    one_frame = [name for name, frames in zip(store.names, store.frames.tolist(), strict=True) if frames == 1]
    assert one_frame == ["a02_s09_e04_v02", "a02_s09_e04_v03"]
    assert np.bincount(store.metadata["camera"]).tolist() == [0, 516, 504, 464]
    train, test = (
        store.labels[split_clips(store, BENCHMARK, split)].bincount().tolist() for split in ("train", "test")
    )
    assert train == [102, 102, 96, 124, 101, 102, 99, 99, 98, 97]
    assert test == [48, 50, 45, 49, 47, 47, 43, 43, 47, 45]


def test_real_coordinates_are_those_of_the_file(real_clips, shared):
    name = "a05_s04_e02_v03"
    written = json.loads((shared / "data" / "NW-UCLA" / "all_sqe" / f"{name}.json").read_text())
    clip = real_clips.store.clip(real_clips.store.names.index(name))
    np.testing.assert_array_equal(clip[:, 0].numpy(), np.array(written["skeletons"]))


def test_length_of_an_epoch_of_real_clips(real_clips):
    train, test = (Feeder(real_clips.store, BENCHMARK, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (5100, 464)
    batch = next(train.epoch(0, 64))
    assert batch.x.shape == (64, 3, 52, 20, 1)
    assert batch.x.dtype == batch.joints.dtype == torch.float32
    assert train.labels.bincount().tolist() == [5 * n for n in (102, 102, 96, 124, 101, 102, 99, 99, 98, 97)]


def test_labels_and_columns_come_from_the_names(folder):
    (folder / "notes.txt").write_text("not a clip")
    store = open_store(BENCHMARK, folder).store
    assert store.names == tuple(GOOD)
    assert store.labels.tolist() == [0, 6, 9, 9]
    assert {key: column.tolist() for key, column in store.metadata.items()} == {
        "subject": [1, 2, 3, 3],
        "camera": [1, 2, 3, 3],
        "replication": [0, 1, 2, 3],
    }
    assert store.class_names[6] == "donning"


def nan_in_frame_1(clip: dict) -> None:
    clip["skeletons"][1][4][2] = float("nan")


def infinity(clip: dict) -> None:
    clip["skeletons"][0][0][0] = float("inf")


def a_joint_less(clip: dict) -> None:
    clip["skeletons"][2].pop()


def all_frames_a_joint_less(clip: dict) -> None:
    for frame in clip["skeletons"]:
        frame.pop()


def a_coordinate_less(clip: dict) -> None:
    clip["skeletons"][0][7].pop()


def a_word(clip: dict) -> None:
    clip["skeletons"][0][0][0] = "0.5"


def a_null(clip: dict) -> None:
    clip["skeletons"][0][0][0] = None


def a_list(clip: dict) -> None:
    clip["skeletons"][0][0][0] = [1.0]


def no_frames(clip: dict) -> None:
    clip["skeletons"] = []


def no_skeletons(clip: dict) -> None:
    del clip["skeletons"]


def other_label(clip: dict) -> None:
    clip["label"] = 5


def other_name(clip: dict) -> None:
    clip["file_name"] = "a01_s01_e00_v02"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (nan_in_frame_1, "NaN or infinite coordinate in frame 1"),
        (infinity, "NaN or infinite coordinate in frame 0"),
        (a_joint_less, "frame 2 has 19 joints, expected 20"),
        (all_frames_a_joint_less, "frame 0 has 19 joints, expected 20"),
        (a_coordinate_less, "joint 7 of frame 0 is not a list of three coordinates"),
        (a_word, "a coordinate is not a number"),
        (a_null, "a coordinate is not a number"),
        (a_list, "not a list of frames of 20 joints"),
        (no_frames, "no frames"),
        (no_skeletons, "no frames"),
        (other_label, "label is 5, its name says 1"),
        (other_name, "file_name is 'a01_s01_e00_v02', its name says 'a01_s01_e01_v01'"),
    ],
)
def test_a_clip_with_wrong_content_is_named(folder, spoil, reason):
    name = "a01_s01_e01_v01"
    clip = content(name, 1)
    spoil(clip)
    (folder / f"{name}.json").write_text(json.dumps(clip))
    with pytest.raises(BadClipsError, match="1 of 5 clips cannot be used") as caught:
        open_store(BENCHMARK, folder)
    assert f"{name}.json: " in str(caught.value)
    assert reason in str(caught.value)
    assert "data.on_bad_clip" in str(caught.value)


@pytest.mark.parametrize(
    ("file_name", "text", "reason"),
    [
        ("a01_s01_e01_v01.json", b"", "the file is empty"),
        ("a01_s01_e01_v01.json", b"{'no': json", "is not JSON"),
        ("a01_s01_e01_v01.json", b"[" * 100_000, "is not JSON"),
        ("a01_s01_e01_v01.json", b"[1, 2]", "is not an object"),
        ("a01_s01_e01_v01.json", b"\xff\xfe\x00", "is not text"),
        ("a01_s01_e01.json", b"{}", "not of the form"),
        ("a07_s01_e01_v01.json", b"{}", "action 07"),
    ],
)
def test_a_file_that_is_no_clip_is_named(folder, file_name, text, reason):
    (folder / file_name).write_bytes(text)
    with pytest.raises(BadClipsError) as caught:
        open_store(BENCHMARK, folder)
    assert [(clip.name, reason in clip.reason) for clip in caught.value.bad_clips] == [(file_name, True)]


def test_all_bad_clips_are_listed_at_once(folder):
    for number in range(25):
        (folder / f"a01_s01_e{number:02}_v02.json").write_text("")
    with pytest.raises(BadClipsError, match="25 of 29 clips") as caught:
        open_store(BENCHMARK, folder)
    assert len(caught.value.bad_clips) == 25
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 25
    assert lines[1] == "  a01_s01_e00_v02.json: the file is empty"
    assert lines[-1] == "  a01_s01_e24_v02.json: the file is empty"


def test_nothing_but_bad_clips_is_not_mended_by_skipping(tmp_path):
    (tmp_path / "a01_s01_e01_v01.json").write_text("")
    with pytest.raises(BadClipsError, match="1 of 1 clips") as caught:
        open_store(BENCHMARK, tmp_path, on_bad_clip="skip")
    assert "on_bad_clip" not in str(caught.value)


def test_bad_clips_are_left_out_and_reported_on_request(folder):
    (folder / "a01_s01_e01_v01.json").write_text("")
    opened = open_store(BENCHMARK, folder, on_bad_clip="skip")
    assert opened.store.names == tuple(GOOD)
    assert [clip.name for clip in opened.skipped] == ["a01_s01_e01_v01.json"]
    assert "a01_s01_e01_v01.json: the file is empty" in opened.remarks[0]
    assert "benchmark nw-ucla: 2 train clips, 1020 expected" in opened.remarks


def test_skipping_every_clip_is_an_error(tmp_path):
    (tmp_path / "a01_s01_e01_v01.json").write_text("")
    with pytest.raises(BadClipsError, match="1 of 1 clips"):
        open_store(BENCHMARK, tmp_path, on_bad_clip="skip")


@pytest.mark.parametrize(("views", "side"), [("v03", "test"), ("v01 v02", "train")])
def test_a_split_without_clips_is_an_error(folder, views, side):
    for file in folder.glob("*.json"):
        if file.stem[-3:] in views:
            file.unlink()
    with pytest.raises(DataError, match=f"no {side} clip"):
        open_store(BENCHMARK, folder)


def test_missing_data_say_where_they_are_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no data there; .*all_sqe.*data\.path"):
        open_store(BENCHMARK, tmp_path / "nowhere")
    (tmp_path / "inner").mkdir()
    with pytest.raises(DataError, match=r"no JSON clip .*data\.path"):
        open_store(BENCHMARK, tmp_path)
    (tmp_path / "inner" / "a01_s01_e01_v01.json").write_text("{}")
    with pytest.raises(DataError, match=r"did you mean .*inner"):
        open_store(BENCHMARK, tmp_path)


def test_the_default_place_is_inside_the_repository():
    repository = Path(__file__).resolve().parents[2]
    assert BENCHMARK.data_path() == repository / "data" / "NW-UCLA" / "all_sqe"
    assert BENCHMARK.data_path("elsewhere") == Path("elsewhere")


def test_a_packed_store_is_opened_like_the_folder(folder, tmp_path):
    store = open_store(BENCHMARK, folder).store
    store.save(tmp_path / "packed.h5")
    assert open_store(BENCHMARK, tmp_path / "packed.h5").store.fingerprint == store.fingerprint


def test_a_store_of_another_benchmark_is_refused(make_store, tmp_path):
    make_store([30]).save(tmp_path / "other.h5")
    with pytest.raises(DataError, match="do not fit benchmark nw-ucla: skeleton ntu, expected nw-ucla"):
        open_store(BENCHMARK, tmp_path / "other.h5")


def test_a_store_without_the_column_of_the_split_is_refused(tmp_path):
    clips = [np.random.default_rng(0).normal(0, 1, (4, 1, 20, 3))]
    PackedStore.from_clips(clips, [0], ["a"], [str(i) for i in range(10)], "nw-ucla").save(tmp_path / "bare.h5")
    with pytest.raises(DataError, match="no column 'camera'"):
        open_store(BENCHMARK, tmp_path / "bare.h5")


def test_wrong_words(folder):
    with pytest.raises(DataError, match=r"data\.on_bad_clip: unknown value 'skp' .did you mean 'skip"):
        open_store(BENCHMARK, folder, on_bad_clip="skp")
    with pytest.raises(DataError, match=r"data\.placement: unknown value 'gpu'"):
        place_store(open_store(BENCHMARK, folder).store, "gpu", torch.device("cpu"))
    with pytest.raises(DataError, match=r"unknown value 'nw_ucla' .did you mean 'nw-ucla"):
        get_benchmark("nw_ucla")


def test_placement(folder, monkeypatch):
    """`auto` moves to a GPU whose free memory is more than four times the coordinates, and to no other device."""
    store = open_store(BENCHMARK, folder).store
    monkeypatch.setattr(PackedStore, "to", lambda self, device: f"on {device}")
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert store.nbytes == 4 * 3 * 20 * 3 * 8
    for free, moved in ((4 * store.nbytes + 1, True), (4 * store.nbytes, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 0))
        assert place_store(store, "auto", gpu) == ("on cuda" if moved else store)
    assert place_store(store, "auto", cpu) is store
    assert place_store(store, "host", gpu) is store
    assert place_store(store, "device", gpu) == "on cuda"


def test_clips_that_a_gpu_has_no_room_for_are_refused(folder, monkeypatch):
    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    store = open_store(BENCHMARK, folder).store
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
    monkeypatch.setattr(PackedStore, "to", refuse)
    monkeypatch.setattr(PackedStore, "nbytes", 3_300_000_000)
    with pytest.raises(
        DataError, match=r"^data\.placement: .* 3\.3 GB, .* memory of cuda:0 .*; set it to host or auto$"
    ):
        place_store(store, "device", torch.device("cuda", 0))


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_placement_gives_the_same_clips(folder, split):
    from_folder = open_store(BENCHMARK, folder).store
    from_folder.save(folder / "packed.h5")
    expected = Feeder(from_folder, BENCHMARK, split, seed=1).feed(torch.arange(2), 1)
    stored = PackedStore.load(folder / "packed.h5")
    for placement in ("host", "device"):
        store = place_store(stored, placement, torch.device("cpu"))
        batch = Feeder(store, BENCHMARK, split, seed=1).feed(torch.arange(2), 1)
        assert torch.equal(batch.x, expected.x)
