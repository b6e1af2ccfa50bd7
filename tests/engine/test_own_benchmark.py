"""Runs on a benchmark that a YAML file of the user's own describes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.errors import RunError
from engine.predictor import load_run
from tests.engine.conftest import ACTIONS

CLASSES = [f"class {number}" for number in range(1, len(ACTIONS) + 1)]


@pytest.fixture
def own(call, clip_folder, tmp_path, monkeypatch):
    """A function that writes the file, with changes, and one that trains on it from the file's folder."""
    folder = tmp_path / "mine"
    (folder / "clips").mkdir(parents=True)
    rows = ["name,label,subject"]
    for path in sorted(clip_folder.glob("*_v03.json"))[:40] + sorted(clip_folder.glob("*_v01.json"))[:40]:
        content = json.loads(path.read_text())
        clip = np.asarray(content["skeletons"], dtype=np.float32)[:, None]
        np.save(folder / "clips" / f"{path.stem}.npy", clip)
        rows.append(f"{path.stem}.npy,{content['label'] - 1},{1 if 'v01' in path.stem else 2}")
    (folder / "clips" / "clips.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(folder)

    def write(classes=CLASSES, window=12):
        split = "{column: subject, train: [1], test: [2]}"
        text = f"skeleton: nw-ucla\nclasses: {json.dumps(classes)}\npath: clips\nwindow: {window}\nsplit: {split}\n"
        (folder / "mine.yaml").write_text(text)

    def train(*words):
        return call("--data.benchmark", "mine.yaml", "--data.path", "null", "--csre.enabled", "false", *words)

    write()
    return write, train


def test_an_edited_benchmark_is_not_resumed_and_names_no_classes(own, tmp_path):
    write, train = own
    assert train("--optim.epochs", "1").code == 0
    run = tmp_path / "runs" / "mine" / "small"
    clip = np.zeros((5, 1, 20, 3), dtype=np.float32)
    load_run(run).predict(clip)
    write(classes=[*CLASSES[1:], CLASSES[0]])
    refused = train("--optim.epochs", "2")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "the benchmark's classes" in refused.err
    for place in (run, run / "checkpoints" / "last.pt"):
        with pytest.raises(RunError, match="the benchmark's classes"):
            load_run(place)
    words = ("--phase", "test", "--weights", str(run / "checkpoints" / "last.pt"), "--name", "other")
    assert "the benchmark's classes" in train(*words).err
    assert train(*words, "--allow-mismatch").code == 0
    write(window=20)
    assert "the benchmark's window: 12 -> 20" in train("--optim.epochs", "2").err
    write()
    assert train("--optim.epochs", "2").code == 0


def test_a_run_can_be_used_from_any_folder(own, call, tmp_path, monkeypatch):
    _, train = own
    assert train("--optim.epochs", "1").code == 0
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine" / "small"
    assert load_run(run).class_names == tuple(CLASSES)
    assert call("--config", str(run), "--phase", "test").code == 0
