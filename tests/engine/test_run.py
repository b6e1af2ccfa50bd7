"""Runs from the front door to the run folder: what they leave, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import engine.evaluate
import engine.run
import engine.state
import engine.train
from engine.checkpoint import load_checkpoint
from feeders.choices import STREAMS
from fusion.scores import load_scores
from fusion.stream_sets import find_sets
from tests.engine.compare import records
from tests.engine.tiny import TinyEncoder


def test_a_run_leaves_everything_in_its_folder(call, run_folder):
    done = call("--log.tsne_clips", "20", "--log.figures", "true")
    assert done.code == 0, done.err
    files = {str(path.relative_to(run_folder)) for path in run_folder.rglob("*") if path.is_file()}
    assert {
        *("config.yaml", "environment.json", "log.txt", "metrics.jsonl", "results.json", "tsne.npz"),
        *("checkpoints/last.pt", "checkpoints/best.pt", "checkpoints/epoch_0002.pt"),
        *("scores_last.npz", "scores_best.npz", "confusion_last.csv", "confusion_best.csv"),
        *("figures/curves.png", "figures/confusion_best.png", "figures/per_class_last.png", "figures/tsne.png"),
    } <= files
    assert any(name.startswith("tensorboard/") for name in files)
    results = json.loads((run_folder / "results.json").read_text())
    assert (results["last"]["epoch"], results["benchmark"], results["heads"]) == (2, "nw-ucla", ["csre"])
    assert results["best"]["top1"] >= results["last"]["top1"]
    assert "last epoch" in done.out
    assert "best epoch *" in done.out


def test_every_quantity_is_logged(call, run_folder):
    call()
    train, test, step = (records(run_folder, kind) for kind in ("train", "test", "step"))
    assert [line["epoch"] for line in train] == [line["epoch"] for line in test] == [1, 2]
    assert [line["at"] for line in step] == [2, 4, 6, 8, 10]  # 80 clips, 16 a step, two epochs, every second step
    assert all(line[f"gradient_{name}"] > 0 for line in step for name in ("cross_entropy", "spatial", "temporal"))
    wanted = {"loss", "cross_entropy", "spatial", "temporal", "top1", "lr", "active_spatial", "active_temporal"}
    assert wanted | {"clips_per_second", "peak_memory_mb"} <= train[0].keys()
    assert {"top1", "top5", "mean_class"} <= test[0].keys()
    assert train[1]["active_spatial"] == 1.0
    assert train[0]["loss"] == pytest.approx(sum(train[0][name] for name in ("cross_entropy", "spatial", "temporal")))


def test_scores_are_those_of_the_encoder_on_the_test_clips(call, run_folder):
    call()
    scores = load_scores(run_folder / "scores_last.npz")
    assert len(scores.names) == 40
    assert all(name.endswith("v03") for name in scores.names)
    assert (scores.stream, scores.benchmark, scores.epoch, scores.heads) == ("joint", "nw-ucla", 2, "csre")
    top1 = 100 * float(np.mean(scores.logits.argmax(axis=1) == scores.labels))
    assert top1 == pytest.approx(json.loads((run_folder / "results.json").read_text())["last"]["top1"])


def test_a_test_every_few_epochs_and_after_the_last(call, run_folder):
    assert call("--optim.epochs", "5", "--log.test_every", "2").code == 0
    assert [line["epoch"] for line in records(run_folder, "train")] == [1, 2, 3, 4, 5]
    assert [line["epoch"] for line in records(run_folder, "test")] == [2, 4, 5]
    best = max(records(run_folder, "test"), key=lambda line: line["top1"])["top1"]
    assert json.loads((run_folder / "results.json").read_text())["best"]["top1"] == best


def test_an_epoch_writes_one_checkpoint(call, monkeypatch):
    written = []
    original = engine.state.save_checkpoint
    monkeypatch.setattr(
        engine.state, "save_checkpoint", lambda path, content: (written.append(path.stem), original(path, content))
    )
    call("--optim.epochs", "3")
    assert written == ["epoch_0001", "epoch_0002", "epoch_0003", "epoch_0003"]  # the last one: the run is complete


@pytest.mark.parametrize("words", [("--phase", "test"), ("--optim.batch_size", "512")])
def test_a_refused_command_leaves_no_folder(call, run_folder, words):
    assert call(*words).code == 2
    assert not run_folder.exists()


def test_a_work_dir_that_cannot_be_one_is_told(call, tmp_path):
    (tmp_path / "file").write_text("")
    done = call("--work_dir", str(tmp_path / "file"))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--work_dir" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--optim.batch_size", "512"), ["optim.batch_size", "512", "80"]),
        (("--data.path", "/nowhere/at/all"), ["/nowhere/at/all", "data.path"]),
        (("--model.options.chanels", "3"), ["chanels", "channels"]),
        (("--model.options.channels", "x"), ["channels='x'"]),
        (("--csre.reduction", "64"), ["csre", "reduction"]),
        (("--data.path", "~nosuchuser/clips"), ["~nosuchuser/clips", "home directory"]),
        (("--work_dir", "~nosuchuser/runs"), ["~nosuchuser/runs", "home directory"]),
        (("--data.window", "100000000"), ["data.window", "< 10000"]),
        (("--csre.dim", "100000000"), ["csre.dim", "< 65536"]),
        (("--model.options.channels", "400000000000"), ["memory", "model.options"]),
        (("--model.options.channels", "4000000000000000000"), ["memory", "model.options"]),
        (("--work-dir", "x" * 5000), ["name too long"]),
        (("--weights", "x" * 5000), ["name too long"]),
        (("--model.name", "tests.engine.tiny:Missing"), ["Missing"]),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(call, words, said):
    done = call(*words)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert all(part.lower() in done.err.lower() for part in said), done.err


def test_bad_clips_are_all_named_or_skipped(call, clip_folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in clip_folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    names = sorted(path.name for path in broken.iterdir())
    (broken / names[0]).write_text("{")
    clip = json.loads((broken / names[1]).read_text())
    clip["skeletons"][0][3][1] = float("nan")
    (broken / names[1]).write_text(json.dumps(clip))
    done = call("--data.path", str(broken))
    assert done.code == 2
    assert all(Path(name).stem in done.err for name in names[:2])
    assert Path(names[2]).stem not in done.err
    assert "Traceback" not in done.err
    skipping = call("--data.path", str(broken), "--data.on_bad_clip", "skip", "--optim.epochs", "1")
    assert skipping.code == 0
    assert all(Path(name).stem in skipping.out for name in names[:2])


def test_the_four_streams_of_layered_files_make_one_set_to_fuse(call, tmp_path):
    (tmp_path / "plain.yaml").write_text("csre: {enabled: false}\noptim: {epochs: 1}\n")
    for stream in STREAMS:
        assert call("--config", str(tmp_path / "plain.yaml"), "--data.stream", stream).code == 0
    names = {"small+plain_bone", "small+plain_joint_motion", "small+plain_bone_motion", "small+plain"}
    assert {path.name for path in (tmp_path / "runs" / "nw-ucla").iterdir()} == names
    sets, problems = find_sets(tmp_path / "runs")
    assert problems == []
    assert {found.selection: found.missing for found in sets} == {"best": [], "last": []}


def test_what_a_finished_run_was_made_with_stays_on_record(call, run_folder):
    words = ("--csre.enabled", "false", "--optim.epochs", "1")
    assert call(*words).code == 0
    kept = {name: (run_folder / name).read_text() for name in ("environment.json", "config.yaml")}
    assert call(*words, "--log.checkpoint_minutes", "7").code == 0
    assert {name: (run_folder / name).read_text() for name in kept} == kept
    assert call(*words[:2], "--log.checkpoint_minutes", "7", "--optim.epochs", "2").code == 0
    assert "checkpoint_minutes: 7" in (run_folder / "config.yaml").read_text()


def test_an_encoder_whose_code_has_changed_is_refused_in_one_line(call, monkeypatch):
    words = ("--csre.enabled", "false", "--optim.epochs")
    assert call(*words, "1").code == 0
    built = TinyEncoder.__init__
    monkeypatch.setattr(TinyEncoder, "__init__", lambda self, **options: built(self, **{"channels": 9, **options}))
    refused = call(*words, "2")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "does not fit the encoder or head as they now are" in refused.err


def test_an_encoder_that_states_another_shape_is_refused_in_one_line(call, monkeypatch):
    monkeypatch.setattr(TinyEncoder, "feature_shape", (8, 7, 20))
    refused = call("--optim.epochs", "1")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    said = "feature_shape says (C', T', V') = (8, 7, 20), extract gives (N, M, C', T', V') = (16, 1, 8, 6, 20)"
    assert said in refused.err


def test_weights_without_settings_are_tested_with_a_word_of_it(call, run_folder, tmp_path):
    assert call("--csre.enabled", "false", "--optim.epochs", "1").code == 0
    bare = tmp_path / "bare.pt"
    torch.save(load_checkpoint(run_folder / "checkpoints" / "last.pt")["encoder"], bare)
    done = call("--phase", "test", "--weights", str(bare), "--name", "bare")
    assert done.code == 0
    assert "do not say what they were trained on" in done.out
