"""The score file: what goes in comes out, and what cannot be a score file is refused by name and reason."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from common.files import WriteError
from fusion.scores import Scores, ScoresError, load_labels, load_origin, load_scores, save_scores


def make(**changes: object):
    values = {
        "names": ["a01_s01", "a02_s01", "a03_s02"],
        "labels": np.array([0, 1, 3]),
        "logits": np.arange(12, dtype=np.float32).reshape(3, 4),
    }
    return Scores(**{**values, **changes})


ORIGIN = {
    "stream": "bone_motion",
    "encoder": "ctrgcn",
    "benchmark": "nw-ucla",
    "epoch": 57,
    "run": "ctrgcn_csre_bone_motion",
    "heads": "csre",
    "group": "0123456789abcdef",
    "selection": "best",
}


def test_round_trip(tmp_path):
    path = tmp_path / "scores_best.npz"
    save_scores(path, make(**ORIGIN))
    scores = load_scores(path)
    assert scores.names == ["a01_s01", "a02_s01", "a03_s02"]
    assert scores.labels.dtype == np.int64
    assert scores.labels.tolist() == [0, 1, 3]
    assert scores.logits.dtype == np.float32
    assert (scores.logits == np.arange(12).reshape(3, 4)).all()
    assert {key: getattr(scores, key) for key in ORIGIN} == ORIGIN
    assert type(scores.epoch) is int
    assert scores.source == str(path)
    origin = load_origin(path)
    assert {key: getattr(origin, key) for key in ORIGIN} == ORIGIN


def test_unknown_origin_stays_unknown(tmp_path):
    save_scores(tmp_path / "plain.npz", make(labels=None))
    scores = load_scores(tmp_path / "plain.npz")
    assert scores.labels is None
    assert {key: getattr(scores, key) for key in ORIGIN} == dict.fromkeys(ORIGIN)


def test_false_and_zero_are_known(tmp_path):
    save_scores(tmp_path / "plain.npz", make(heads="", epoch=0))
    scores = load_scores(tmp_path / "plain.npz")
    assert scores.heads == ""
    assert scores.epoch == 0


@pytest.mark.parametrize(("csre", "heads"), [(True, "csre"), (False, "")])
def test_files_of_the_time_when_csre_was_the_only_head(tmp_path, csre, heads):
    np.savez(tmp_path / "s.npz", names=["a"], logits=np.ones((1, 2), np.float32), encoder="hcn", csre=csre)
    assert load_scores(tmp_path / "s.npz").heads == heads
    assert load_origin(tmp_path / "s.npz").heads == heads


def test_file_needs_no_pickle(tmp_path):
    save_scores(tmp_path / "s.npz", make(**ORIGIN))
    with np.load(tmp_path / "s.npz", allow_pickle=False) as archive:
        kinds = {key: archive[key].dtype.kind for key in archive.files}
    assert kinds.pop("names") == "U"
    assert kinds.pop("logits") == "f"
    assert kinds.pop("labels") == "i"
    assert set(kinds) == set(ORIGIN)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.npz"
    save_scores(path, make(epoch=1))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left on device"):
        save_scores(path, make(epoch=2))
    assert load_scores(path).epoch == 1
    assert [file.name for file in tmp_path.iterdir()] == ["s.npz"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["a", "b"]}, "2 names for 3 clips"),
        ({"names": ["a", "b", "a"]}, "more than once: 1 .*'a'"),
        ({"logits": np.zeros((3, 4))}, "float64"),
        ({"logits": np.zeros(3, np.float32)}, "float32"),
        ({"logits": np.zeros((0, 4), np.float32), "names": [], "labels": None}, r"\(0, 4\)"),
        ({"logits": np.array([[0, 1], [np.nan, 0], [0, np.inf]], np.float32), "labels": None}, "2 of 3 .*'a02_s01'"),
        ({"labels": np.array([0, 1])}, r"int64 \(2,\)"),
        ({"labels": np.array([0.0, 1, 2])}, "float64"),
        ({"labels": np.array([1, 2, 4])}, "from 1 to 4; classes are 0 to 3"),
        ({"labels": np.array([-1, 0, 1])}, "from -1"),
        ({"selection": "newest"}, "newest.*last, best"),
    ],
)
def test_what_cannot_be_scores(changes, message):
    with pytest.raises(ScoresError, match=message):
        make(**changes)


def test_scores_are_not_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().epoch = 3


def write_npz(path, **arrays: object):
    np.savez(path, **arrays)
    return path


def test_float64_and_whole_number_names_are_taken(tmp_path):
    path = write_npz(tmp_path / "s.npz", names=np.array([7, 3]), logits=np.array([[0.5, 1], [2, 3]]))
    scores = load_scores(path)
    assert scores.names == ["7", "3"]
    assert scores.logits.dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"names": ["a"], "labels": [0]}, "no logits"),
        ({"names": ["a"], "logits": [[1]]}, "int64"),
        ({"names": [["a"]], "logits": [[1.0]]}, "names are"),
        ({"names": [0.5], "logits": [[1.0]]}, "names are float64"),
        ({"names": ["a"], "logits": [[1e300]]}, "infinite"),
        ({"names": ["a"], "logits": [[1.0]], "labels": ["x"]}, "labels are"),
        ({"names": ["a"], "logits": [[1.0]], "epoch": [3, 4]}, "epoch is"),
        ({"names": ["a"], "logits": [[1.0]], "stream": 5}, "stream is"),
        ({"names": np.array(["a"], dtype=object), "logits": [[1.0]]}, "no npz of plain arrays"),
    ],
)
def test_npz_with_wrong_content(tmp_path, arrays, message):
    path = write_npz(tmp_path / "s.npz", **arrays)
    with pytest.raises(ScoresError, match=message) as caught:
        load_scores(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_damaged_npz(tmp_path):
    path = tmp_path / "s.npz"
    save_scores(path, make(**ORIGIN))
    whole = path.read_bytes()
    for damaged in (b"", whole[:10], whole[: len(whole) // 2], whole[:-1], b"no zip at all" * 10):
        path.write_bytes(damaged)
        with pytest.raises(ScoresError, match="damaged"):
            load_scores(path)


def test_fuzzed_npz(tmp_path):
    path = tmp_path / "s.npz"
    save_scores(path, make(**ORIGIN))
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        mutated = whole.copy()
        for position in rng.integers(len(whole), size=rng.integers(1, 4)):
            mutated[position] = rng.integers(256)
        path.write_bytes(mutated)
        try:
            scores = load_scores(path)
        except ScoresError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert scores.logits.shape == (3, 4)
    assert refused > 100


@pytest.mark.parametrize("name", ["none.npz", "none.pkl"])
def test_missing_file(tmp_path, name):
    with pytest.raises(ScoresError, match=f"{name}: cannot be read .*No such file"):
        load_scores(tmp_path / name)


def test_other_endings_and_folders(tmp_path):
    (tmp_path / "scores.txt").write_text("0.1 0.9")
    with pytest.raises(ScoresError, match="not a score file"):
        load_scores(tmp_path / "scores.txt")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ScoresError, match="cannot be read"):
        load_scores(tmp_path / "folder.npz")


def test_labels_file(tmp_path):
    path = write_npz(tmp_path / "labels.npz", names=np.array([3, 0, 12]), labels=np.array([9, 0, 4]))
    assert load_labels(path) == {"3": 9, "0": 0, "12": 4}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"names": ["a", "b"]}, "no labels"),
        ({"labels": [0]}, "no names"),
        ({"names": ["a", "b"], "labels": [0]}, "2 names for 1"),
        ({"names": ["a", "a"], "labels": [0, 1]}, "more than once"),
        ({"names": ["a", "b"], "labels": [0.0, 1.0]}, "labels are float64"),
        ({"names": ["a", "b"], "labels": [-1, 1]}, "numbers from 0"),
        ({"names": np.array([], "U1"), "labels": np.array([], int)}, "labels are"),
    ],
)
def test_wrong_labels_file(tmp_path, arrays, message):
    path = write_npz(tmp_path / "labels.npz", **arrays)
    with pytest.raises(ScoresError, match=message) as caught:
        load_labels(path)
    assert str(caught.value).startswith(str(path))


def test_labels_file_that_is_none(tmp_path):
    with pytest.raises(ScoresError, match="cannot be read"):
        load_labels(tmp_path / "none.npz")
    with pytest.raises(ScoresError, match="an npz with names and labels"):
        load_labels(tmp_path / "val_label.pkl")
