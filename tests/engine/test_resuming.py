"""Runs that go on: bit for bit, from whatever is left, and never as something else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import engine.evaluate
import engine.run
import engine.state
import engine.train
from engine.checkpoint import load_checkpoint
from fusion.scores import load_scores, save_scores
from graph import get_skeleton
from tests.engine.compare import equal, records


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


def test_a_finished_run_that_goes_on_is_unfinished_until_its_next_report(call, run_folder, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    results = run_folder / "results.json"
    call("--optim.epochs", "1")
    with monkeypatch.context() as context:
        context.setattr(engine.train, "train_epoch", interrupt)
        assert call("--optim.epochs", "2").code == 130
    assert not results.exists()
    assert call("--optim.epochs", "2").code == 0
    assert json.loads(results.read_text())["last"]["epoch"] == 2

    with monkeypatch.context() as context:  # a finished run is reported again: its results hold all the while
        context.setattr(engine.run, "report", interrupt)
        assert call("--optim.epochs", "2").code == 130
    assert results.exists()


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


@pytest.mark.parametrize("selection", ["best", "last"])
def test_scores_of_an_older_epoch_are_written_again(call, run_folder, selection):
    call()
    path = run_folder / f"scores_{selection}.npz"
    whole = load_scores(path)
    save_scores(path, replace(whole, logits=whole.logits[:, ::-1], epoch=whole.epoch - 1))
    done = call()
    assert f"{path} is of epoch {whole.epoch - 1}, the {selection} epoch is {whole.epoch}" in done.out
    assert np.array_equal(load_scores(path).logits, whole.logits)


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
