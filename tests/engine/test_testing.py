"""Testing stored weights: which, and what does not fit."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
import torch

import engine.state
from engine.checkpoint import load_checkpoint
from feeders.feeder import Feeder
from fusion.scores import load_scores
from tests.engine.compare import equal
from tools import export

PLAIN = ("--csre.enabled", "false")


def test_testing_needs_nothing_of_csre(call, run_folder, tmp_path):
    call()
    trained = load_scores(run_folder / "scores_last.npz").logits
    weights = ("--weights", str(run_folder / "checkpoints/last.pt"))
    assert call("--phase", "test", "--name", "with", *weights).code == 0
    assert call("--phase", "test", "--name", "without", *weights, *PLAIN).code == 0
    for name in ("with", "without"):
        scores = load_scores(run_folder.with_name(name) / "test/scores_test.npz")
        assert np.array_equal(scores.logits, trained)
        assert (scores.epoch, scores.heads) == (
            2,
            "csre",
        )  # what the weights were trained with, not how they are tested


def test_phase_test_without_weights_tests_last_and_best(call, run_folder):
    call()
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    done = call("--phase", "test")
    assert done.code == 0
    for name in ("last", "best"):
        trained, tested = (load_scores(folder / f"scores_{name}.npz") for folder in (run_folder, run_folder / "test"))
        assert np.array_equal(trained.logits, tested.logits)
        assert (trained.epoch, trained.group) == (tested.epoch, tested.group)
    assert "best epoch *" in done.out
    assert before == {path: path.read_bytes() for path in before}  # a test touches nothing that the training wrote


@pytest.mark.parametrize(
    "words",
    [
        ("--data.stream", "bone", "--name", "small"),
        ("--model.options.channels", "16"),
        ("--data.window", "9"),
    ],
)
def test_testing_a_run_as_something_else_is_refused(call, run_folder, words):
    call("--optim.epochs", "1")
    done = call("--phase", "test", *words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words[0].removeprefix("--").removesuffix(".channels") in done.err
    assert not (run_folder / "test").exists()


@pytest.mark.parametrize("words", [("--data.stream", "bone"), ("--data.variant", "centred")])
def test_testing_weights_of_something_else_must_be_asked_for(call, run_folder, words):
    call("--optim.epochs", "1")
    testing = ("--phase", "test", "--weights", str(run_folder / "checkpoints/last.pt"), "--name", "other", *words)
    refused = call(*testing)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert words[0].removeprefix("--") in refused.err
    assert "--allow-mismatch" in refused.err
    assert not run_folder.with_name("other").exists()
    assert call(*testing, "--allow-mismatch").code == 0


def test_exported_weights_say_what_they_are_of(call, run_folder, tmp_path):
    call("--optim.epochs", "1")
    exported = tmp_path / "exported.pt"
    assert export.main(["--run", str(run_folder), "--format", "state_dict", "--output", str(exported)]) == 0
    testing = ("--phase", "test", "--weights", str(exported), "--name", "other")
    refused = call(*testing, "--data.stream", "bone")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "was trained with data.stream=joint" in refused.err
    assert call(*testing).code == 0
    assert load_scores(run_folder.with_name("other") / "test/scores_test.npz").heads == "csre"


def test_a_file_with_more_than_tensors_says_how_to_save_it(call, tmp_path):
    torch.save({"state_dict": {}, "when": datetime.date(2025, 1, 1)}, tmp_path / "theirs.pt")
    done = call("--phase", "test", "--weights", str(tmp_path / "theirs.pt"))
    assert done.code == 2
    assert "save the state dict alone" in done.err


def test_weights_within_an_epoch_say_so(call, run_folder, monkeypatch):
    monkeypatch.setattr(engine.state, "prune", lambda *_: None)
    call("--optim.epochs", "1", "--log.checkpoint_steps", "2")
    within = run_folder / "checkpoints/epoch_0001_step_000002.pt"
    done = call("--phase", "test", "--weights", str(within), "--name", "other")
    assert "these weights have seen 2 steps more than 0 epochs" in done.out


def test_testing_an_untrained_run_says_what_is_missing(call):
    done = call("--phase", "test")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "train first" in done.err


def test_the_average_is_what_is_tested(call, run_folder):
    call("--optim.ema_decay", "0.99")
    checkpoint = load_checkpoint(run_folder / "checkpoints/last.pt")
    assert not equal(checkpoint["encoder"], checkpoint["training"]["encoder"])
    tested = load_scores(run_folder / "scores_last.npz").logits
    done = call("--phase", "test", "--weights", str(run_folder / "checkpoints/last.pt"), "--name", "again")
    assert done.code == 0
    assert np.array_equal(load_scores(run_folder.with_name("again") / "test/scores_test.npz").logits, tested)


def test_the_embedding_of_a_test_is_that_of_the_tested_weights(call, run_folder):
    words = ("--optim.ema_decay", "0.9", "--log.tsne_clips", "20")
    call(*words)
    call("--phase", "test", *words)
    trained, tested = (np.load(folder / "tsne.npz")["points"] for folder in (run_folder, run_folder / "test"))
    assert np.allclose(trained, tested, atol=1e-3)


@pytest.mark.parametrize(
    ("in_training", "named", "remedy"),
    [("true", "optim.batch_size: 16 clips", "--optim.amp bf16"), ("false", "optim.test_batch_size: 40 clips", "lower")],
)
def test_a_batch_that_does_not_fit_into_memory_is_named(call, in_training, named, remedy):
    words = ("--optim.test_batch_size", "50", *PLAIN)
    done = call("--model.name", "tests.engine.tiny:HungryEncoder", "--model.options.in_training", in_training, *words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert (
        f"{named} at once do not fit into the memory of cpu (CUDA out of memory. Tried to allocate 2.00 GiB)"
        in done.err
    )
    assert remedy in done.err


def test_clips_that_do_not_fit_when_they_are_cropped_are_named_too(call, monkeypatch):
    def crop(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. Try")

    monkeypatch.setattr(Feeder, "joints_of", crop)
    done = call("--optim.epochs", "1", *PLAIN)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "optim.test_batch_size: 40 clips at once do not fit" in done.err
