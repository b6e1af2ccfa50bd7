"""Runs from the front door to the run folder: training, testing, resuming, refusing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
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
from feeders.choices import STREAMS
from fusion.scores import load_scores
from fusion.stream_sets import find_sets
from graph import get_skeleton
from tests.engine.compare import equal
from tests.engine.tiny import TinyEncoder

PLAIN = ("--csre.enabled", "false")


def records(folder: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


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


def test_testing_an_untrained_run_says_what_is_missing(call):
    done = call("--phase", "test")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "train first" in done.err


def test_a_longer_run_continues_bit_for_bit(call, run_folder):
    call("--optim.epochs", "4", "--name", "straight")
    call("--optim.epochs", "2")
    done = call("--optim.epochs", "4")
    assert "resuming after epoch 2" in done.out
    straight = load_checkpoint(run_folder.with_name("straight") / "checkpoints/last.pt")
    resumed = load_checkpoint(run_folder / "checkpoints/last.pt")
    assert equal(straight["training"], resumed["training"])
    for kind in ("train", "test", "step"):
        timing = ("clips_per_second", "peak_memory_mb")
        one, other = (
            [{k: v for k, v in line.items() if k not in timing} for line in records(folder, kind)]
            for folder in (run_folder, run_folder.with_name("straight"))
        )
        assert one == other


@pytest.mark.parametrize("where", ["train_epoch", "test_epoch"])
def test_an_interrupted_run_loses_no_finished_epoch(call, run_folder, monkeypatch, where):
    call("--optim.epochs", "3", "--name", "straight")
    original = getattr(engine.train, where)

    def interrupt(run, log, stop):
        if run.counters.trained == (1 if where == "train_epoch" else 2):
            if where == "train_epoch":
                log.record("step", 99, {"epoch": 2, "step": 1})  # a line of an epoch that is then trained again
            raise KeyboardInterrupt
        return original(run, log, stop)

    monkeypatch.setattr(engine.train, where, interrupt)
    assert call("--optim.epochs", "3").code == 130
    monkeypatch.setattr(engine.train, where, original)
    assert load_checkpoint(run_folder / "checkpoints/last.pt")["epoch"] == (1 if where == "train_epoch" else 2)
    assert call("--optim.epochs", "3").code == 0
    straight = load_checkpoint(run_folder.with_name("straight") / "checkpoints/last.pt")
    assert equal(straight["training"], load_checkpoint(run_folder / "checkpoints/last.pt")["training"])
    assert [line["epoch"] for line in records(run_folder, "train")] == [1, 2, 3]
    assert [line["epoch"] for line in records(run_folder, "test")] == [1, 2, 3]
    assert len(records(run_folder, "step")) == 7


def test_a_complete_run_is_reported_not_repeated(call, run_folder):
    first = call()
    before = (run_folder / "checkpoints/last.pt").read_bytes()
    again = call()
    assert again.code == 0
    assert "complete" in again.out
    assert (run_folder / "checkpoints/last.pt").read_bytes() == before
    table = [line for line in first.out.splitlines() if line.startswith(("last epoch", "best epoch"))]
    assert table == [line for line in again.out.splitlines() if line.startswith(("last epoch", "best epoch"))]


@pytest.mark.parametrize("damage", ["missing", "cut short"])
@pytest.mark.parametrize("selection", ["best", "last"])
def test_a_complete_run_writes_a_lost_score_file_again(call, run_folder, damage, selection):
    call()
    path = run_folder / f"scores_{selection}.npz"
    whole = load_scores(path)
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:200])
    done = call()
    assert done.code == 0, done.err
    assert f"scores_{selection}.npz" in done.out
    again = load_scores(path)
    assert np.array_equal(again.logits, whole.logits)
    assert (again.epoch, again.group, again.heads, again.selection) == (whole.epoch, whole.group, "csre", selection)
    assert "testing" not in call().out


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


def test_a_run_that_began_in_the_meantime_is_not_overwritten(call, run_folder, monkeypatch):
    """Two starts of one command: the second one waits for nothing, finds no folder, and gets the lock late."""
    start = engine.run._resume_or_start

    def overtaken(experiment):
        lines = start(experiment)
        monkeypatch.setattr(engine.run, "_resume_or_start", start)
        assert call("--optim.epochs", "1").code == 0
        return lines

    monkeypatch.setattr(engine.run, "_resume_or_start", overtaken)
    done = call("--optim.epochs", "1")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "run the same command again" in done.err
    assert [line["epoch"] for line in records(run_folder, "train")] == [1]
    assert call("--optim.epochs", "1").code == 0


def test_a_changed_setting_is_refused_by_name(call, run_folder):
    call()
    before = (run_folder / "metrics.jsonl").read_bytes()
    done = call("--csre.temperature", "0.5", "--optim.lr", "0.02")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "csre.temperature: 0.8 -> 0.5" in done.err
    assert "optim.lr: 0.05 -> 0.02" in done.err
    assert (run_folder / "metrics.jsonl").read_bytes() == before


def test_other_clips_are_refused(call, clip_folder, tmp_path):
    call()
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for path in sorted(clip_folder.iterdir())[1:]:
        (fewer / path.name).write_bytes(path.read_bytes())
    done = call("--data.path", str(fewer))
    assert done.code == 2
    assert "clips themselves" in done.err


def test_another_graph_is_refused(call, monkeypatch):
    call()
    skeleton = get_skeleton("nw-ucla")
    monkeypatch.setattr(engine.state, "get_skeleton", lambda _: replace(skeleton, centre=(skeleton.centre + 1) % 20))
    done = call()
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "graph of the skeleton" in done.err


def test_never_resuming_sets_the_old_run_aside(call, run_folder):
    call()
    old = (run_folder / "checkpoints/last.pt").read_bytes()
    done = call("--resume", "never", "--optim.lr", "0.02")
    assert done.code == 0
    aside = run_folder.with_name("small.old-1")
    assert str(aside) in done.out
    assert (aside / "checkpoints/last.pt").read_bytes() == old
    assert (run_folder / "checkpoints/last.pt").read_bytes() != old
    call("--resume", "never")
    assert (run_folder.with_name("small.old-2") / "checkpoints/last.pt").exists()
    assert (aside / "checkpoints/last.pt").read_bytes() == old


@pytest.mark.parametrize("words", [("--optim.batch_size", "512"), ("--weights", "FOREIGN")])
def test_a_run_is_not_set_aside_for_one_that_cannot_start(call, run_folder, tmp_path, words):
    call("--optim.epochs", "1")
    torch.save({"foreign": torch.zeros(1)}, tmp_path / "foreign.pt")
    words = tuple(str(tmp_path / "foreign.pt") if word == "FOREIGN" else word for word in words)
    assert call("--resume", "never", *words).code == 2
    assert (run_folder / "checkpoints/last.pt").exists()
    assert not run_folder.with_name("small.old-1").exists()


def test_a_fresh_run_may_start_from_the_weights_of_the_one_it_sets_aside(call, run_folder):
    call("--optim.epochs", "1")
    weights = str(run_folder / "checkpoints/best.pt")
    assert call("--resume", "never", "--weights", weights, "--optim.epochs", "1").code == 0


def test_other_weights_are_not_silently_ignored_by_a_run_that_goes_on(call, run_folder):
    call("--optim.epochs", "1")
    weights = str(run_folder / "checkpoints/best.pt")
    done = call("--weights", weights)
    assert done.code == 2
    assert f"weights: None -> {weights}" in done.err


@pytest.mark.parametrize("words", [("--phase", "test"), ("--optim.batch_size", "512")])
def test_a_refused_command_leaves_no_folder(call, run_folder, words):
    assert call(*words).code == 2
    assert not run_folder.exists()


def test_a_work_dir_that_cannot_be_one_is_told(call, tmp_path):
    (tmp_path / "file").write_text("")
    done = call("--work_dir", str(tmp_path / "file"))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--work_dir" in done.err


def test_a_half_written_record_stops_nothing(call, run_folder):
    call("--optim.epochs", "1")
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "ep')
    assert call("--phase", "test").code == 0
    assert call("--optim.epochs", "2").code == 0
    assert [line["epoch"] for line in records(run_folder, "train")] == [1, 2]


def test_resuming_from_a_file(call, run_folder):
    call("--optim.epochs", "3")
    straight = load_checkpoint(run_folder / "checkpoints/last.pt")["training"]
    second = str(run_folder / "checkpoints/epoch_0002.pt")
    back = call("--optim.epochs", "3", "--resume", second)
    assert back.code == 2  # it would leave two histories in one folder
    assert "--name" in back.err
    assert call("--optim.epochs", "3", "--resume", second, "--name", "branch").code == 0
    branch = load_checkpoint(run_folder.with_name("branch") / "checkpoints/last.pt")["training"]
    assert equal(straight["encoder"], branch["encoder"])
    assert equal(straight["csre"], branch["csre"])

    call("--name", "other")
    refused = call("--optim.epochs", "3", "--resume", second, "--name", "other")
    assert refused.code == 2
    assert "holds a run already" in refused.err


def test_fewer_epochs_than_trained_are_refused(call):
    call()
    done = call("--optim.epochs", "1")
    assert done.code == 2
    assert "optim.epochs" in done.err


def test_a_loss_that_is_not_finite_stops_before_the_update(call, run_folder, monkeypatch):
    call("--optim.epochs", "1")
    before = (run_folder / "checkpoints/last.pt").read_bytes()
    original = Feeder.feed

    def poisoned(self, indices, epoch):
        batch = original(self, indices, epoch)
        if self.split == "train":
            batch.x[batch.indices == 7] = torch.nan
        return batch

    monkeypatch.setattr(Feeder, "feed", poisoned)
    updates = []
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *_, **__: updates.append(1))
    done = call("--optim.epochs", "2")
    assert (done.code, done.err.count("\n")) == (3, 1)
    order = resolve_small_order(call)
    assert f"epoch 2, step {order.index(7) // 16 + 1} " in done.err
    names = Feeder(*feeder_of_small_run(call), split="train").names
    assert f"clips: {names[7]}. " in done.err  # alone, although batch normalisation spreads the NaN to all losses
    assert len(updates) == order.index(7) // 16
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
