"""Accuracies from logits, against counts made by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

import ensemble
from engine.evaluate import embedded, measure
from feeders.feeder import Feeder
from fusion.scores import load_scores

# Seven classes; the true class is ranked 1st, 5th, 6th, 1st.
RANKED = np.array([[7, 6, 5, 4, 3, 2, 1]] * 4, dtype=np.float32)


def test_top_one_and_top_five():
    accuracy = measure(RANKED, np.array([0, 4, 5, 0]))
    assert (accuracy.clips, accuracy.top1, accuracy.top5) == (4, 50.0, 75.0)


def test_classes_and_confusion():
    accuracy = measure(RANKED, np.array([0, 4, 5, 0]))
    assert accuracy.per_class[[0, 4, 5]].tolist() == [100.0, 0.0, 0.0]
    assert np.isnan(accuracy.per_class[[1, 2, 3, 6]]).all()
    assert accuracy.mean_class == pytest.approx(100 / 3)
    assert accuracy.confusion[[0, 4, 5], 0].tolist() == [2, 1, 1]
    assert accuracy.confusion.sum() == 4


def test_fewer_than_five_classes():
    accuracy = measure(np.eye(3, dtype=np.float32), np.array([1, 1, 2]))
    assert accuracy.top5 == 100.0
    assert accuracy.top1 == pytest.approx(200 / 3)


def test_streams_are_tested_together_as_one_by_one(call, run_folder, monkeypatch, capsys):
    folders = {stream: run_folder.with_name(stream) for stream in ("joint", "bone", "joint_motion")}
    words = {stream: ("--name", stream, "--data.stream", stream) for stream in folders}
    for stream in folders:
        assert call(*words[stream], "--optim.epochs", "1", "--optim.ema_decay", "0.5").code == 0
        assert call(*words[stream], "--phase", "test").code == 0
    paths = [folder / "test/scores_best.npz" for folder in folders.values()]
    one_by_one = [load_scores(path) for path in paths]
    for path in paths:
        path.unlink()
    cropped = []
    joints_of = Feeder.joints_of
    monkeypatch.setattr(Feeder, "joints_of", lambda *rest, **named: cropped.append(1) or joints_of(*rest, **named))
    assert ensemble.main([*map(str, folders.values()), "--evaluate", "--epoch", "best"]) == 0
    printed = capsys.readouterr().out
    assert len(cropped) == 1  # all 40 test clips are one batch, and its clips are read once for the three streams
    for path, expected in zip(paths, one_by_one, strict=True):
        found = load_scores(path)
        assert np.array_equal(found.logits, expected.logits)
        facts = ("names", "stream", "encoder", "benchmark", "epoch", "run", "heads", "group", "selection")
        assert all(np.array_equal(getattr(found, fact), getattr(expected, fact)) for fact in facts)
        assert str(path) in printed
    assert re.search(r"^fused  ", printed, re.MULTILINE)


def test_runs_that_are_tested_otherwise_are_not_tested_together(call, run_folder, tmp_path, capsys):
    for name, window, matmul in (("one", "12", "highest"), ("other", "13", "high")):
        words = ("--name", name, "--data.window", window, "--optim.matmul", matmul)
        assert call(*words, "--optim.epochs", "1").code == 0
    runs = [str(run_folder.with_name(name)) for name in ("one", "other")]
    for words, said in (
        ([*runs, "--evaluate"], "(optim.matmul: highest, high; data.window: 12, 13)"),
        ([runs[0], str(tmp_path), "--evaluate"], "is no run folder"),
        (["--evaluate"], "--evaluate goes with score files or runs"),
    ):
        assert ensemble.main(words) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("clips", [0, 3])
def test_too_few_clips_have_no_embedding(clips):
    assert embedded(np.random.default_rng(0).normal(size=(clips, 8))) is None


def test_equal_features_have_no_embedding():
    assert embedded(np.full((20, 8), 0.1)) is None
    assert embedded(np.random.default_rng(0).normal(size=(20, 8))).shape == (20, 2)
