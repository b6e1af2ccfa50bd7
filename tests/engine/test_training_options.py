"""What is trained: losses, averages, clipping, starts, and when it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import engine.evaluate
import engine.run
import engine.state
import engine.train
from engine.checkpoint import load_checkpoint
from engine.config import resolve
from engine.experiment import build
from feeders import Feeder, get_benchmark, open_store
from fusion.scores import load_scores
from tests.engine.compare import equal, records
from tests.engine.tiny import TinyEncoder

PLAIN = ("--csre.enabled", "false")


def test_a_loss_that_is_not_finite_stops_before_the_update(call, run_folder, monkeypatch):
    call("--optim.epochs", "1")
    before = (run_folder / "checkpoints/last.pt").read_bytes()
    original = Feeder.feed

    def poisoned(self, indices, *rest):
        batch = original(self, indices, *rest)
        if self.split == "train":
            batch.x[batch.indices == 7] = torch.nan
        return batch

    monkeypatch.setattr(Feeder, "feed", poisoned)
    updates = []
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *_, **__: updates.append(float(self.found_inf)))
    done = call("--optim.epochs", "2")
    assert (done.code, done.err.count("\n")) == (3, 1)
    order = resolve_small_order(call)
    assert f"epoch 2, step {order.index(7) // 16 + 1} " in done.err
    names = Feeder(*feeder_of_small_run(call), split="train").names
    assert f"clips: {names[7]}. " in done.err  # alone, although batch normalisation spreads the NaN to all losses
    assert updates == [0.0] * (order.index(7) // 16) + [1.0]
    assert (run_folder / "checkpoints/last.pt").read_bytes() == before


def feeder_of_small_run(call) -> tuple:
    """Store and benchmark of the small run."""
    benchmark = get_benchmark("nw-ucla")
    return open_store(benchmark, call.folder).store, benchmark


def resolve_small_order(call) -> list[int]:
    """The order of the 80 training indices in the second epoch."""
    from feeders.sampling import epoch_order

    return epoch_order(80, 1, 2).tolist()


def test_an_encoders_own_losses_and_smoothing_train_along(call, run_folder, monkeypatch):
    assert call(*PLAIN, "--name", "unsmoothed", "--optim.epochs", "1").code == 0
    monkeypatch.setattr(TinyEncoder, "label_smoothing", 0.5)
    monkeypatch.setattr(TinyEncoder, "own_losses", lambda self, labels: {"own": 3 * self.linear.bias.square().sum()})
    assert call(*PLAIN, "--optim.epochs", "1").code == 0
    train = records(run_folder, "train")[0]
    assert train["own"] > 0
    assert train["loss"] == pytest.approx(train["cross_entropy"] + train["own"])
    assert train["cross_entropy"] != pytest.approx(
        records(run_folder.with_name("unsmoothed"), "train")[0]["cross_entropy"], rel=1e-3
    )


def test_the_encoder_starts_from_the_same_weights_with_and_without_csre(call):
    config = str(call.config)
    with_csre, without = (resolve(["--config", config, *words]) for words in ((), PLAIN))
    assert with_csre is not None
    assert without is not None
    one, other = build(with_csre.config), build(without.config)
    assert other.heads == {}
    assert equal(dict(one.encoder.state_dict()), dict(other.encoder.state_dict()))


@pytest.mark.parametrize(
    "words",
    [
        ("--optim.name", "adamw", "--optim.lr", "0.001"),
        ("--optim.ema_decay", "0.9"),
        ("--optim.clip_norm", "0.1"),
        ("--optim.amp", "bf16"),
        ("--csre.branches", "[global]"),
        ("--csre.bank.dtype", "float16"),
        ("--csre.bank.capacity", "3"),
        ("--data.repeat", "2"),
        ("--data.stream", "bone_motion", "--name", "small"),
        ("--data.variant", "centred"),
        ("--model.options.channels", "16"),
        PLAIN,
    ],
    ids=" ".join,
)
def test_every_kind_of_run_trains_and_resumes(call, run_folder, words):
    assert call(*words, "--optim.epochs", "2").code == 0
    assert call(*words, "--optim.epochs", "6").code == 0
    losses = [line["cross_entropy"] for line in records(run_folder, "train")]
    assert len(losses) == 6
    assert losses[5] < losses[0]


def test_the_average_moves_with_the_weights(call, run_folder):
    call("--optim.ema_decay", "0.5", "--optim.epochs", "1")
    one = load_checkpoint(run_folder / "checkpoints/last.pt")["encoder"]["conv.weight"]
    call("--optim.ema_decay", "0.5", "--optim.epochs", "2")
    two = load_checkpoint(run_folder / "checkpoints/last.pt")["encoder"]["conv.weight"]
    assert not torch.equal(one, two)


def test_clipping_bounds_the_update(call, run_folder):
    still = ("--optim.epochs", "1", "--optim.momentum", "0", "--optim.nesterov", "false", "--optim.weight_decay", "0")
    call(*still, "--name", "free")
    call(*still, "--optim.clip_norm", "1e-6", "--name", "clipped")
    start = build_start(call)
    for name, moves in (("free", True), ("clipped", False)):
        weights = load_checkpoint(run_folder.with_name(name) / "checkpoints/last.pt")["encoder"]["conv.weight"]
        assert torch.allclose(weights, start, atol=1e-5) != moves


def build_start(call) -> torch.Tensor:
    """The convolution of the small run before its first step."""
    resolved = resolve(["--config", str(call.config)])
    assert resolved is not None
    return build(resolved.config).encoder.state_dict()["conv.weight"]


def test_an_epoch_that_is_worse_does_not_replace_the_best(call, run_folder, monkeypatch):
    accuracies = iter([30.0, 50.0, 40.0])
    original = engine.evaluate.measure

    def measured(logits, labels):
        return replace(original(logits, labels), top1=next(accuracies))

    monkeypatch.setattr(engine.evaluate, "measure", measured)
    monkeypatch.setattr(engine.run, "_report", lambda *_: None)
    call("--optim.epochs", "3")
    assert load_scores(run_folder / "scores_best.npz").epoch == 2
    assert load_scores(run_folder / "scores_last.npz").epoch == 3
    assert load_checkpoint(run_folder / "checkpoints/best.pt")["epoch"] == 2


def test_held_out_clips_choose_the_best_epoch_and_end_the_training(call, run_folder, monkeypatch):
    """Whatever the test clips say; and a complete run resumes where patience is raised."""
    validation = iter([30.0, 50.0, 40.0, 45.0, 60.0, 10.0])
    test = iter([90.0, 10.0, 99.0, 99.0, 20.0, 99.0])
    original, seen = engine.evaluate.measure, []

    def measured(logits, labels):
        seen.append(len(labels))
        return replace(original(logits, labels), top1=next(validation if len(labels) == 20 else test))

    monkeypatch.setattr(engine.evaluate, "measure", measured)
    monkeypatch.setattr(engine.run, "_report", lambda *_: None)
    words = ("--data.validation", "0.25", "--optim.epochs", "9")
    done = call(*words, "--optim.patience", "2")
    assert seen == [20, 40] * 4, "two of the eight training clips of each class are held out"
    assert "val 45.00 % (best 50.00 @ 2)  test 99.00 %" in done.out
    assert "training ends after epoch 4: no epoch since 2 was better on the held-out clips" in done.out
    assert load_scores(run_folder / "scores_best.npz").epoch == 2
    assert load_checkpoint(run_folder / "checkpoints/best.pt")["epoch"] == 2
    assert [record["top1"] for record in records(run_folder, "validation")] == [30.0, 50.0, 40.0, 45.0]
    again = call(*words, "--optim.patience", "2")
    assert "this run is complete (4 epochs); raise optim.patience" in again.out
    call("--data.validation", "0.25", "--optim.epochs", "6", "--optim.patience", "3")
    assert load_scores(run_folder / "scores_best.npz").epoch == 5
    assert load_checkpoint(run_folder / "checkpoints/last.pt")["epoch"] == 6


def test_patience_needs_held_out_clips(call):
    refused = call("--optim.patience", "3")
    assert refused.code == 2
    assert "optim.patience: needs data.validation > 0" in refused.err


def test_a_loss_that_would_begin_after_the_last_epoch_is_refused(call):
    refused = call("--acl.enabled", "true", "--acl.count_epoch", "4", "--optim.epochs", "4")
    assert refused.code == 2
    assert "acl.count_epoch: classes are contrasted from epoch 5 on, after the last (optim.epochs 4)" in refused.err


def test_a_memory_too_small_for_a_step_is_refused_before_the_old_run_is_set_aside(call, run_folder):
    assert call("--optim.epochs", "1").code == 0
    words = ("--acl.enabled", "true", "--acl.count_epoch", "1", "--optim.batch_size", "12", "--resume", "never")
    refused = call(*words, "--acl.memory", "11")
    assert refused.code == 2
    assert "acl.memory: must hold the clips of a step (optim.batch_size 12); raise it" in refused.err
    assert [folder.name for folder in run_folder.parent.iterdir()] == [run_folder.name]
    assert "acl.memory" not in call(*words, "--acl.memory", "12").err


def test_training_starts_from_given_weights(call, run_folder):
    call()
    weights = str(run_folder / "checkpoints/last.pt")
    assert call("--weights", weights, "--name", "tuned", "--optim.lr", "1e-9", "--optim.epochs", "1").code == 0
    tuned = load_checkpoint(run_folder.with_name("tuned") / "checkpoints/last.pt")["encoder"]
    start = load_checkpoint(run_folder / "checkpoints/last.pt")["encoder"]
    assert torch.allclose(tuned["conv.weight"], start["conv.weight"], atol=1e-6)


def test_a_contrast_that_never_acts_is_loudly_told(call):
    done = call("--csre.too_few", "skip", "--csre.positives.hard", "128", "--optim.epochs", "1")
    assert done.code == 0
    assert "WARNING" in done.out
    assert "csre.positives" in done.out


def test_the_released_reading_trains(call):
    released = Path(__file__).parents[2] / "config/base/csre_released.yaml"
    counts = ("--csre.positives.hard", "4", "--csre.negatives.hard", "8", "--csre.negatives.random", "8")
    assert call("--optim.epochs", "1", "--config", str(released), *counts).code == 0
