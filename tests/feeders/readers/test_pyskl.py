"""PYSKL pickles: clips moved like those of the pipeline, sides of every protocol, nothing run that a file asks for."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from numpy._core.numeric import _frombuffer

from feeders import DataError, Feeder, get_benchmark, open_store
from feeders.readers.pyskl import move_to_origin, read_pyskl

XSUB, XVIEW = get_benchmark("ntu60-xsub"), get_benchmark("ntu60-xview")
NAMES = ["S001C001P001R001A001", "S001C002P003R001A050", "S002C003P001R002A060"]


def annotation(name: str, persons: int, frames: int, **changes: object) -> dict:
    rng = np.random.default_rng(frames)
    keypoint = (rng.standard_normal((persons, frames, 25, 3)) + 3).astype(np.float16)
    entry = {"frame_dir": name, "label": int(name[-3:]) - 1, "total_frames": frames, "keypoint": keypoint}
    return entry | changes


def content() -> dict:
    return {
        "split": {
            "xsub_train": [NAMES[0], NAMES[2]],
            "xsub_val": [NAMES[1]],
            "xview_train": [NAMES[1], NAMES[2]],
            "xview_val": [NAMES[0]],
        },
        "annotations": [annotation(name, 1 + i % 2, 5 + i) for i, name in enumerate(NAMES)],
    }


@pytest.fixture
def write(tmp_path):
    def to_file(value, protocol=4):
        path = tmp_path / "ntu60_3danno.pkl"
        path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
        return path

    return to_file


@pytest.mark.parametrize("protocol", range(6))
def test_clips_labels_and_sides(write, protocol):
    given = content()
    store = open_store(XSUB, write(given, protocol)).store
    assert store.names == tuple(NAMES)
    assert store.labels.tolist() == [0, 49, 59]
    assert store.persons.tolist() == [1, 2, 1]
    assert store.metadata["side"].tolist() == [0, 1, 0]
    assert store.metadata["side_xview"].tolist() == [1, 0, 0]
    assert store.metadata["camera"].tolist() == [1, 2, 3]
    for index, entry in enumerate(given["annotations"]):
        single = entry["keypoint"].astype(np.float32)
        expected = (single - single[0, 0, 1]).transpose(1, 0, 2, 3)
        np.testing.assert_array_equal(store.clip(index).numpy(), expected)
    assert Feeder(store, XSUB, "test").names == (NAMES[1],)
    of_xview = open_store(XVIEW, write(given, protocol)).store
    assert Feeder(of_xview, XVIEW, "test").names == (NAMES[0],)


def test_the_file_decides_the_sides_not_the_names(write):
    given = content()
    given["split"]["xsub_train"], given["split"]["xsub_val"] = [NAMES[1]], [NAMES[0]]
    store = open_store(XSUB, write(given)).store
    assert Feeder(store, XSUB, "train").names == (NAMES[1],)
    assert NAMES[2] not in store.names


def test_a_side_alone(write):
    store, _ = read_pyskl(write(content()), XSUB, splits=("test",))
    assert store.names == (NAMES[1],)


def test_empty_frames_go_and_absent_persons_stay_zero():
    keypoint = np.random.default_rng(0).standard_normal((2, 6, 25, 3)).astype(np.float16)
    keypoint[:, 2] = 0
    keypoint[0, 0] = 0
    keypoint[1, 3:] = 0
    clip = move_to_origin(keypoint, 1)
    assert clip.dtype == np.float32
    assert clip.shape == (5, 2, 25, 3)
    origin = keypoint[0, 1, 1].astype(np.float32)
    assert (clip[0, 0] == 0).all()
    assert (clip[1, 0, 1] == 0).all()
    np.testing.assert_array_equal(clip[0, 1], keypoint[1, 0].astype(np.float32) - origin)
    np.testing.assert_array_equal(clip[2:, 0], keypoint[0, 3:].astype(np.float32) - origin)
    assert (clip[2:, 1] == 0).all()


def test_arrays_in_column_order_and_numpy_integers(write):
    given = content()
    for entry in given["annotations"]:
        entry["keypoint"] = np.asfortranarray(entry["keypoint"])
        entry["label"] = np.int64(entry["label"])
    store, bad = read_pyskl(write(given), XSUB)
    expected, _ = read_pyskl(write(content()), XSUB)
    assert bad == []
    assert store.fingerprint == expected.fingerprint


@pytest.mark.parametrize("protocol", range(6))
def test_transposed_arrays(write, protocol):
    given = content()
    for entry in given["annotations"]:
        by_frame = np.ascontiguousarray(entry["keypoint"].transpose(1, 3, 0, 2))
        entry["keypoint"] = by_frame.transpose(2, 0, 3, 1)
    store, bad = read_pyskl(write(given, protocol), XSUB)
    expected, _ = read_pyskl(write(content()), XSUB)
    assert bad == []
    assert store.fingerprint == expected.fingerprint


class Forged:
    """Pickled like an array of numpy 2.4, with axes of one's choice."""

    def __init__(self, order: object, axes: object) -> None:
        self.order, self.axes = order, axes

    def __reduce__(self) -> tuple:
        return _frombuffer, (bytes(24), np.dtype("f2"), (1, 2, 2, 3), self.order, self.axes)


@pytest.mark.parametrize("axes", [(0, 0, 1, 2), (0, 1, 2), (0, 1, 2, 4), (0, 1, 2, -1), [0, 1, 2, 3], "0123", 3])
def test_axes_that_are_no_permutation_are_refused(write, axes):
    with pytest.raises(DataError, match="an array whose axes are not a permutation"):
        read_pyskl(write({"split": {}, "annotations": [Forged("K", axes)]}), XSUB)


@pytest.mark.parametrize(("order", "axes"), [("K", None), ("C", (0, 1, 2, 3)), ("A", None)])
def test_unknown_memory_orders_are_refused(write, order, axes):
    with pytest.raises(DataError, match="an array in an unknown memory order"):
        read_pyskl(write({"split": {}, "annotations": [Forged(order, axes)]}), XSUB)


def test_sides_may_be_tuples_and_a_double_is_a_bad_clip(write):
    given = content()
    given["split"] = {name: tuple(ids) for name, ids in given["split"].items()}
    given["annotations"].append(annotation(NAMES[1], 1, 4))
    store, bad = read_pyskl(write(given), XSUB)
    assert store.names == tuple(NAMES)
    assert bad == [(NAMES[1], "annotation 3 has the frame_dir of an earlier one")]


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_are_refused_quietly(write):
    given = content()
    for number, value in enumerate((1e300, -1e300)):
        given["annotations"][number]["keypoint"] = np.full((1, 5, 25, 3), value)
    store, bad = read_pyskl(write(given), XSUB)
    assert store.names == (NAMES[2],)
    assert [clip.name for clip in bad] == NAMES[:2]
    for clip in bad:
        assert "NaN or infinite" in clip.reason


def test_bad_clips_are_named(write):
    given = content()
    flat = np.zeros((1, 5, 17, 2), np.float16)
    given["annotations"][0]["keypoint"] = flat
    given["annotations"][1]["keypoint"][0, 0, 0, 0] = np.inf
    given["annotations"][2]["label"] = 60
    given["annotations"].append({"label": 3})
    store, bad = read_pyskl(write(given), XSUB)
    assert store is None
    assert [clip.name for clip in bad] == [*NAMES, "annotation 3"]
    for clip, reason in zip(bad, (r"(1, 5, 17, 2)", "NaN or infinite", "label 60", "no frame_dir"), strict=True):
        assert reason in clip.reason


def test_another_data_set_is_refused(write):
    with pytest.raises(DataError, match=r"splits are those of ntu60, benchmark ntu120-xset needs ntu120"):
        read_pyskl(write(content()), get_benchmark("ntu120-xset"))


class Harmful:
    def __reduce__(self) -> tuple:
        return print, ("it was run",)


def test_what_does_not_belong_is_refused_and_never_run(write, capsys):
    files = {
        "builtins print|__builtin__ print": {"split": {}, "annotations": [Harmful()]},
        "it lacks the dict 'split'": [1, 2],
        "it lacks the list 'annotations'": {"split": {}},
        "truncated or damaged": pickle.dumps(content(), 4)[:-200],
        "split 1 is not a list": {"split": {1: []}, "annotations": []},
        "split 'all' is not a list": {"split": {"all": NAMES}, "annotations": []},
        "no plain number|type other than": {"split": {}, "annotations": [np.array([{}], dtype=object)]},
        "not an annotation file": b"",
    }
    for reason, value in files.items():
        with pytest.raises(DataError, match=reason) as caught:
            read_pyskl(write(value), XSUB)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(write(value)))
    assert capsys.readouterr().out == ""


OWN = """\
skeleton: coco
classes: [wave, point, fall]
path: clips.pkl
persons: 2
transforms: 2d
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "videos.yaml").write_text(OWN)
    return get_benchmark(str(tmp_path / "videos.yaml"))


def image_annotation(name: str, persons: int, frames: int, **changes: object) -> dict:
    rng = np.random.default_rng(frames)
    entry = {
        "frame_dir": name,
        "label": frames % 3,
        "total_frames": frames,
        "img_shape": (480, 640),
        "original_shape": (480, 640),
        "keypoint": (rng.random((persons, frames, 17, 2)) * (640, 480)).astype(np.float16),
        "keypoint_score": rng.random((persons, frames, 17)).astype(np.float16),
    }
    return entry | changes


def image_content(*annotations: dict) -> dict:
    names = [entry.get("frame_dir", entry.get("filename")) for entry in annotations]
    return {"split": {"train": names[:-1], "val": names[-1:]}, "annotations": list(annotations)}


def test_2d_clips_become_coordinates_of_the_image_with_confidence(write, own):
    given = image_content(*(image_annotation(f"clip {i}", persons=1 + i, frames=5 + i) for i in range(3)))
    given["annotations"][1]["filename"] = given["annotations"][1].pop("frame_dir")
    store = open_store(own, write(given)).store
    assert store.names == ("clip 0", "clip 1", "clip 2")
    assert store.labels.tolist() == [2, 0, 1]
    assert store.frames.tolist() == [5, 6, 7]
    assert store.persons.tolist() == [1, 2, 2], "there is room for two persons"
    assert store.metadata["side"].tolist() == [0, 0, 1]
    for index, entry in enumerate(given["annotations"]):
        score = entry["keypoint_score"][:2].astype(np.float32)
        x, y = (entry["keypoint"][:2, ..., axis].astype(np.float32) for axis in (0, 1))
        seen = score > 0.01
        expected = np.stack([np.where(seen, x / 320 - 1, 0), np.where(seen, y / 240 - 1, 0), score], axis=-1)
        np.testing.assert_allclose(store.clip(index).numpy(), expected.swapaxes(0, 1), atol=1e-6)
    assert next(Feeder(store, own, "test").epoch(0, 1)).x.shape == (1, 3, 64, 17, 2)


def test_an_image_without_a_size_is_full_hd(write, own):
    entries = [image_annotation(f"clip {i}", 1, 4) for i in range(2)]
    for entry in entries:
        del entry["img_shape"]
        entry["keypoint"] = np.full((1, 4, 17, 2), (1920, 540), np.float32)
        entry["keypoint_score"][:] = 1
    store = open_store(own, write(image_content(*entries))).store
    assert (store.clip(0)[..., :2] == torch.tensor([1.0, 0.0])).all()


def test_a_file_of_the_other_kind_is_one_error(write, own):
    with pytest.raises(DataError, match=r"3-D annotations, benchmark videos takes 2-D ones; name a 2-D file$"):
        read_pyskl(write(content()), own)
    given = image_content(*(image_annotation(name, 1, 4) for name in NAMES))
    with pytest.raises(DataError, match=r"2-D annotations, benchmark ntu60-xsub takes 3-D ones; .* transforms: 2d"):
        read_pyskl(write(given), XSUB)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"keypoint": np.zeros((1, 4, 17, 3), np.float16)},
            r"keypoint is of shape \(1, 4, 17, 3\), expected \(persons, fr",
        ),
        ({"keypoint_score": np.ones((1, 3, 17), np.float16)}, r"keypoint_score is .* expected \(1, 4, 17\)"),
        ({"keypoint_score": None}, "keypoint_score is none"),
        ({"img_shape": (480, 0)}, r"img_shape is \(480, 0\), expected \(height, width\)"),
        ({"label": 3}, r"label 3 must be in 0 \.\. 2"),
    ],
)
def test_2d_clips_that_cannot_be_used_are_named_with_the_reason(write, own, changes, reason):
    given = image_content(image_annotation("good", 1, 4), image_annotation("bad", 1, 4, **changes))
    with pytest.raises(DataError, match=rf"bad: .*{reason}"):
        open_store(own, write(given))


def test_numbered_splits_are_protocols_of_their_own(write, own):
    given = image_content(*(image_annotation(f"clip {i}", 1, 4) for i in range(2)))
    given["split"] = {"train1": ["clip 0"], "test1": ["clip 1"], "train2": ["clip 1"], "test2": ["clip 0"]}
    store, bad = read_pyskl(write(given), own)
    assert not bad
    assert store.metadata["side_1"].tolist() == [0, 1]
    assert store.metadata["side_2"].tolist() == [1, 0]
