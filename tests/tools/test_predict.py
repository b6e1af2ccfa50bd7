"""tools/predict.py: every kind of clip, one or several runs, text or JSON."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from engine.predictor import load_run
from feeders.readers.clip_file import read_clip
from tests.tools.untrained import untrained_run
from tools import predict

TINY = {"model__name": "tests.engine.tiny:TinyEncoder"}


@pytest.fixture
def run(tmp_path):
    untrained_run(tmp_path / "run", data__benchmark="nw-ucla", **TINY)
    return tmp_path / "run"


@pytest.fixture
def clip():
    return np.random.default_rng(0).normal(size=(9, 20, 3)).round(4)


def answers(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_file_kinds_of_one_clip_are_answered_alike(run, clip, tmp_path, capsys):
    np.save(tmp_path / "three.npy", clip)
    np.save(tmp_path / "four.npy", np.stack([clip, np.zeros_like(clip)], axis=1))
    (tmp_path / "nw.json").write_text(json.dumps({"file_name": "x", "label": 1, "skeletons": clip.tolist()}))
    (tmp_path / "bare.json").write_text(json.dumps(clip.tolist()))
    places = [str(tmp_path / name) for name in ("three.npy", "four.npy", "nw.json", "bare.json")]
    assert predict.main(["--run", str(run), *places, "--json"]) == 0
    found = answers(capsys)
    assert [answer["clip"] for answer in found] == places
    expected = load_run(run).predict(clip[:, None])
    for answer in found:
        assert [entry["class"] for entry in answer["top"]] == [name for name, _ in expected]
        assert [entry["probability"] for entry in answer["top"]] == pytest.approx([p for _, p in expected], abs=1e-6)
        assert answer["milliseconds"] > 0


def test_raw_ntu_clip_has_its_origin_at_the_spine(tmp_path):
    joints = np.random.default_rng(1).normal(size=(2, 25, 3)).round(3).astype(np.float32)
    lines = ["2"]
    for frame in joints:
        lines += ["1", "72057594037931101 0 1 1 1 1 0 0.1 0.2 2", "25"]
        lines += [" ".join(map(str, [*point, *[0] * 8, 2])) for point in frame]
    (tmp_path / "S001C001P001R001A001.skeleton").write_text("\n".join(lines) + "\n")
    clip = read_clip(tmp_path / "S001C001P001R001A001.skeleton")
    assert clip.shape == (2, 1, 25, 3)
    assert np.allclose(clip[:, 0], joints - joints[0, 1], atol=1e-6)


def test_folder_and_standard_input(run, clip, tmp_path, capsys, monkeypatch):
    for name in ("b", "a"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        np.save(tmp_path / "clips" / f"{name}.npy", clip)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{json.dumps(clip.tolist())}\n\n"))
    assert predict.main(["--run", str(run), str(tmp_path / "clips"), "-", "--json", "--top", "1"]) == 0
    found = answers(capsys)
    assert [answer["clip"].rpartition("/")[2] for answer in found] == ["a.npy", "b.npy", "line 1"]
    assert [len(answer["top"]) for answer in found] == [1, 1, 1]


def test_a_clip_that_cannot_be_used_does_not_stop_the_others(run, clip, capsys, monkeypatch):
    ragged, other = [[[0, 0, 0]] * 20, [[0, 0, 0]]], [[[1, 2, 3]] * 25]
    lines = ["nonsense", json.dumps(ragged), json.dumps(other), json.dumps(clip.tolist())]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert predict.main(["--run", str(run), "-", "--json"]) == 2
    captured = capsys.readouterr()
    errors = [json.loads(line).get("error", "") for line in captured.out.splitlines()]
    for error, said in zip(errors, ["not JSON", "differ in their number of joints", "25 joints", ""], strict=True):
        assert said in error
    assert captured.err.startswith("tools/predict.py: 3 of the clips")


def test_runs_are_fused_by_weighted_logits(run, clip, tmp_path, capsys):
    untrained_run(tmp_path / "other", seed=1, data__benchmark="nw-ucla", data__stream="bone", **TINY)
    np.save(tmp_path / "clip.npy", clip)
    words = ["--run", str(run), "--run", str(tmp_path / "other"), "--json", "--top", "10"]
    assert predict.main([str(tmp_path / "clip.npy"), *words, "--fuse", "3", "1"]) == 0
    (answer,) = answers(capsys)
    first, second = (torch.tensor(load_run(place).logits([clip[:, None]])[0]) for place in (run, tmp_path / "other"))
    expected = (0.75 * first + 0.25 * second).softmax(0).sort(descending=True)
    assert [entry["probability"] for entry in answer["top"]] == pytest.approx(expected.values.tolist(), abs=1e-6)
    names = load_run(run).class_names
    assert [entry["class"] for entry in answer["top"]] == [names[index] for index in expected.indices]


def test_text_names_class_and_share(run, clip, tmp_path, capsys):
    np.save(tmp_path / "clip.npy", clip)
    assert predict.main(["--run", str(run), str(tmp_path / "clip.npy"), "--top", "1"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    ((name, probability),) = load_run(run).predict(clip[:, None], top=1)
    assert "ms)" in head
    assert line.split(maxsplit=2) == [f"{100 * probability:.2f}", "%", name]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["CLIP"], "name a run"),
        (["CLIP", "--run", "RUN", "--weights", "x.pt"], "not both"),
        (["CLIP", "--run", "RUN", "--config", "x.yaml"], "--config: a run has its own configuration; omit it"),
        (["CLIP", "--weights", "x.pt", "--epoch", "best"], "--epoch: chooses among the weights of a run; omit it"),
        (["missing.npy", "--run", "RUN"], "missing.npy: no such file"),
        (["CLIP", "--run", "RUN", "--fuse", "1", "2"], "2 weights for 1 streams"),
        (["CLIP", "--run", "RUN", "--fuse", "nonsense"], "unknown preset"),
    ],
)
def test_refusals_are_one_line(words, said, run, clip, tmp_path, capsys):
    np.save(tmp_path / "clip.npy", clip)
    assert predict.main([{"CLIP": str(tmp_path / "clip.npy"), "RUN": str(run)}.get(word, word) for word in words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("device", "said"), [("cuda", "torch sees no GPU; use --device auto or cpu"), ("gpu", "cuda")])
def test_a_device_that_is_not_there_is_one_line(device, said, run, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    np.save(tmp_path / "clip.npy", clip)
    assert predict.main(["--run", str(run), str(tmp_path / "clip.npy"), "--device", device]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
