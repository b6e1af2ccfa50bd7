"""PYSKL pickles: clips moved like those of the pipeline, sides of every protocol, nothing run that a file asks for."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
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
