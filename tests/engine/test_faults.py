"""Runs that are killed, asked to stop, or find damaged checkpoints: nothing is lost, nothing changes."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine.state
import engine.train
from engine import evaluate
from engine.checkpoint import load_checkpoint
from engine.errors import RunError
from engine.experiment import Experiment
from fusion.scores import load_scores
from tests.engine.child import Accident, start
from tests.engine.compare import equal

TIMING = ("clips_per_second", "peak_memory_mb")


def assert_equal_runs(one: Path, other: Path, but: tuple[str, ...] = ()) -> None:
    """Weights, optimiser, average, banks, random states, every logged number and all scores are bit-equal.

    Logged numbers whose names start with a word of `but` are not compared.
    """
    for name in ("last", "best"):
        checkpoints = [load_checkpoint(folder / f"checkpoints/{name}.pt") for folder in (one, other)]
        assert equal(checkpoints[0]["encoder"], checkpoints[1]["encoder"])
        assert equal(checkpoints[0]["training"], checkpoints[1]["training"])
        scores = [load_scores(folder / f"scores_{name}.npz") for folder in (one, other)]
        assert np.array_equal(scores[0].logits, scores[1].logits)
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (one, other)]
    records = [
        [{k: v for k, v in json.loads(line).items() if k not in TIMING and not k.startswith(but)} for line in part]
        for part in lines
    ]
    assert records[0] == records[1]


@pytest.fixture(scope="module")
def straight(clip_folder, tmp_path_factory) -> Path:
    """A run that nothing interrupts: its configuration file; its run folder is runs/nw-ucla/straight beside it."""
    folder = tmp_path_factory.mktemp("faults")
    config = folder / "faulty.yaml"
    (folder / "average.yaml").write_text("optim: {ema_decay: 0.9}")
    config.write_text(
        f"""
        data: {{benchmark: nw-ucla, path: {clip_folder}, window: 12, repeat: 1}}
        model: {{name: "tests.engine.tiny:TinyEncoder"}}
        csre: {{enabled: true, dim: 16, positives: {{hard: 4}}, negatives: {{hard: 8, random: 8}}}}
        optim: {{lr: 0.01, batch_size: 16, test_batch_size: 16, epochs: 3, warmup_epochs: 0, milestones: [1]}}
        log: {{every_steps: 2, tsne_clips: 0, figures: false, checkpoint_steps: 2}}
        inherits: average.yaml
        device: cpu
        work_dir: {folder / "runs"}
        """
    )
    code, printed = start(["--config", str(config), "--name", "straight"], folder / "straight.txt").wait()
    assert code == 0, printed
    return config


@pytest.fixture
def runs(straight) -> Path:
    """Where the runs of that configuration lie."""
    return straight.parent / "runs/nw-ucla"


def assert_kills_change_nothing(words: list[str], straight: Path, accidents: list[Accident], printed: Path) -> None:
    """One command, killed by every accident in turn and then left alone, ends as the run that nothing interrupts."""
    words = [*words, "--name", f"{straight.name}_killed"]
    for number, accident in enumerate(accidents):
        code, text = start(words, printed / f"{number}.txt", accident).wait()
        assert code == -signal.SIGKILL, text
        assert f"accident in {accident.kind}" in text
    code, text = start(words, printed / "end.txt").wait()
    assert code == 0, text
    assert_equal_runs(straight, straight.with_name(words[-1]))


def test_kills_change_nothing(straight, runs, tmp_path):
    """Before there is a checkpoint, within the first, within an epoch, a test, another checkpoint; an epoch later."""
    places = [("train", 2), ("checkpoint", 5), ("train", 4), ("test", 2), ("checkpoint", 60), ("train", 6)]
    accidents = [Accident(event, kind=kind) for kind, event in places]
    assert_kills_change_nothing(["--config", str(straight)], runs / "straight", accidents, tmp_path)


@pytest.mark.slow
def test_twenty_kills_anywhere_change_nothing(straight, runs, tmp_path):
    words = ["--config", str(straight), "--optim.epochs", "14"]
    code, printed = start([*words, "--name", "long"], tmp_path / "long.txt").wait()
    assert code == 0, printed
    chance = random.Random(5)
    places = [("train", 4), ("test", 3), ("checkpoint", 60)] * 7  # and how many events of the kind to choose from
    chance.shuffle(places)
    accidents = [Accident(chance.randint(1, most), kind=kind) for kind, most in places[:20]]
    assert_kills_change_nothing(words, runs / "long", accidents, tmp_path)


@pytest.mark.parametrize(
    ("number", "place", "event"),
    [(signal.SIGTERM, "train", 3), (signal.SIGINT, "train", 1), (signal.SIGTERM, "test", 2)],
)
def test_a_signal_lets_the_step_finish_and_loses_nothing(straight, runs, tmp_path, number, place, event):
    words = ["--config", str(straight), "--name", f"asked_{number}_{place}"]
    folder = runs / words[-1]
    code, printed = start(words, tmp_path / "asked.txt", Accident(event, (number,), place)).wait()
    assert code == 128 + number, printed
    assert signal.Signals(number).name in printed.splitlines()[-1]
    counters = load_checkpoint(folder / "checkpoints/last.pt")["training"]["counters"]
    expected = (0, 0, event) if place == "train" else (1, 0, 0)
    assert (counters["trained"], counters["tested"], counters["step"]) == expected
    code, printed = start(words, tmp_path / "end.txt").wait()
    assert code == 0, printed
    assert_equal_runs(runs / "straight", folder)


def test_a_second_signal_ends_a_run_at_once(straight, runs, tmp_path):
    words = ["--config", str(straight), "--name", "impatient", "--log.checkpoint_steps", "1"]
    accident = Accident(3, (signal.SIGTERM, signal.SIGINT), "train")
    code, printed = start(words, tmp_path / "asked.txt", accident).wait()
    assert code == 128 + signal.SIGINT, printed
    assert load_checkpoint(runs / "impatient/checkpoints/last.pt")["training"]["counters"]["step"] == 2


@pytest.mark.parametrize("damage", ["10", "50", "99", "flipped", "flipped late", "empty", "pickle"])
def test_a_damaged_last_checkpoint_is_named_and_an_older_one_used(straight, runs, tmp_path, damage):
    name = "damaged_" + damage.replace(" ", "_")
    shutil.copytree(runs / "straight", runs / name)
    last = runs / name / "checkpoints/last.pt"
    whole = last.read_bytes()
    if damage.isdigit():
        last.write_bytes(whole[: len(whole) * int(damage) // 100])
    elif damage.startswith("flipped"):
        place = len(whole) // (2 if damage == "flipped" else 1) - (1000 if damage == "flipped late" else 0)
        last.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    elif damage == "empty":
        last.write_bytes(b"")
    else:
        last.write_bytes(pickle.dumps(Harmful(tmp_path / "harmed"), protocol=2))
    (last.parent / "epoch_0003.pt").write_bytes(last.read_bytes())  # the same file under its other name
    code, printed = start(["--config", str(straight), "--name", name], tmp_path / "again.txt").wait()
    assert code == 0, printed
    told = [line for line in printed.splitlines() if str(last) in line]
    assert len(told) == 1
    assert "resuming from" in told[0]
    assert "resuming after epoch 2" in printed
    assert not (tmp_path / "harmed").exists()
    assert_equal_runs(runs / "straight", runs / name)


class Harmful:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_nothing_but_damaged_checkpoints_is_no_reason_to_begin_anew(call, run_folder):
    call()
    for path in (run_folder / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    before = (run_folder / "metrics.jsonl").read_bytes()
    done = call()
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "all checkpoints are damaged" in done.err
    assert "--resume never" in done.err
    assert (run_folder / "metrics.jsonl").read_bytes() == before


def test_a_full_disk_costs_a_checkpoint_not_the_run(call, run_folder, monkeypatch):
    accuracies_by_epoch(monkeypatch, 30.0, 20.0, 10.0)
    call("--optim.epochs", "3", "--name", "straight")
    sync, calls = os.fsync, []

    def sometimes_full(file: int) -> None:
        calls.append(str(Path(f"/proc/self/fd/{file}").resolve()))
        if "epoch_0002" in calls[-1]:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", sometimes_full)
    done = call("--optim.epochs", "3")
    assert done.code == 0
    assert done.out.count("No space left on device") == 1
    assert any("epoch_0002" in path for path in calls)
    assert not list((run_folder / "checkpoints").glob("epoch_0002*"))
    assert_equal_runs(run_folder.with_name("straight"), run_folder)


def test_a_disk_that_stays_full_is_told_at_the_end(call, run_folder, monkeypatch):
    call("--optim.epochs", "1")
    before = (run_folder / "checkpoints/last.pt").read_bytes()

    def full(file: int) -> None:
        if "epoch_" in str(Path(f"/proc/self/fd/{file}").resolve()):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = call("--optim.epochs", "2")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "last checkpoint could not be written" in done.err
    assert (run_folder / "checkpoints/last.pt").read_bytes() == before


@pytest.mark.parametrize("refused", ["epoch_0002.pt", "best.pt"])
def test_the_best_epoch_is_one_whose_weights_could_be_kept(call, run_folder, monkeypatch, refused):
    accuracies_by_epoch(monkeypatch, 10.0, 30.0, 20.0)
    give_name, sync = engine.state.name_also, os.fsync

    def name_also(path: Path, name: Path) -> None:
        if name.name == refused and load_checkpoint(path)["epoch"] == 2:
            raise RunError(f"{name}: cannot be written")
        give_name(path, name)

    def fsync(file: int) -> None:
        if refused in str(Path(f"/proc/self/fd/{file}").resolve()):
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(engine.state, "name_also", name_also)
    monkeypatch.setattr(os, "fsync", fsync)
    done = call("--optim.epochs", "3")
    assert done.code == 0
    assert done.out.count("WARNING: ") == {"epoch_0002.pt": 2, "best.pt": 1}[refused]
    results = json.loads((run_folder / "results.json").read_text())
    best = load_checkpoint(run_folder / "checkpoints/best.pt")
    assert results["best"]["epoch"] == best["epoch"] == load_scores(run_folder / "scores_best.npz").epoch == 3


def test_without_any_better_epoch_kept_the_last_one_is_the_best(call, run_folder, monkeypatch):
    give_name, refusals = engine.state.name_also, [RunError("best.pt: cannot be written")]

    def name_also(path: Path, name: Path) -> None:
        if name.name == "best.pt" and refusals:
            raise refusals.pop()
        give_name(path, name)

    monkeypatch.setattr(engine.state, "name_also", name_also)
    for _ in range(2):  # the second time the run is complete
        assert call("--optim.epochs", "2", "--log.test_every", "2").code == 0
        assert json.loads((run_folder / "results.json").read_text())["best"]["epoch"] == 2
        assert load_checkpoint(run_folder / "checkpoints/best.pt")["epoch"] == 2


def accuracies_by_epoch(monkeypatch: pytest.MonkeyPatch, *top1: float) -> None:
    """Let the tests of a run seem to have these accuracies."""

    def test(run: Experiment, *rest: Any) -> evaluate.Tested:
        tested = evaluate.test_epoch(run, *rest)
        return tested._replace(test=replace(tested.test, top1=top1[run.counters.trained - 1]))

    monkeypatch.setattr(engine.train, "test_epoch", test)


def test_a_checkpoint_that_last_could_not_be_is_resumed_from(call, run_folder, monkeypatch):
    give_name = engine.state.name_also

    def name_also(path: Path, name: Path) -> None:
        if name.name == "last.pt" and "0002" in path.name:
            raise RunError(f"{name}: cannot be written")
        give_name(path, name)

    with monkeypatch.context() as context:
        context.setattr(engine.state, "name_also", name_also)
        assert "run the same command again" in call("--optim.epochs", "2").err
    assert load_checkpoint(run_folder / "checkpoints/last.pt")["epoch"] == 1
    again = call("--optim.epochs", "2")
    assert again.code == 0
    assert "this run is complete (2 epochs)" in again.out
    assert load_checkpoint(run_folder / "checkpoints/last.pt")["epoch"] == 2


def test_a_folder_in_use_is_refused_until_its_user_ends(straight, runs, tmp_path, call):
    words = ["--config", str(straight), "--name", "locked"]
    holder = start(words, tmp_path / "holder.txt", Accident(2, (signal.SIGSTOP,), "train"))
    try:
        while "accident" not in (holder.printed.read_text() if holder.printed.exists() else ""):
            assert holder.process.is_alive()
            time.sleep(0.05)
        code, printed = start([*words, "--resume", "never"], tmp_path / "second.txt").wait()
        assert code == 2, printed
        assert f"in use by process {holder.process.pid}" in printed
        assert not list(runs.glob("locked.old*"))
    finally:
        holder.process.kill()
        holder.process.join()
    assert start(words, tmp_path / "third.txt").wait()[0] == 0


def test_a_disk_that_fills_up_within_an_epoch_stops_no_step(straight, runs, tmp_path):
    """Checkpoints, scores, log, metrics and curves are all refused: the run continues to its end and says so."""
    words = ["--config", str(straight), "--name", "full", "--optim.epochs", "2"]
    reading, writing = os.pipe()  # which a full disk does not concern
    child = start(words, Path(f"/proc/{os.getpid()}/fd/{writing}"), Accident(4, (), "train", full=True))
    child.process.join(120)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        printed = pipe.read()
    assert child.process.exitcode == 2, printed
    assert "Traceback" not in printed
    assert "epoch 2/2" in printed
    for name in ("log.txt", "metrics.jsonl", "tensorboard"):
        assert printed.count(f"WARNING: {name} cannot be written") == 1
    assert "last checkpoint could not be written" in printed.splitlines()[-1]
    full = load_checkpoint(runs / "full/checkpoints/last.pt")
    counters = full["training"]["counters"]
    assert (full["epoch"], counters["trained"], counters["step"]) == (0, 0, 2)
    assert not list((runs / "full/checkpoints").glob(".*"))
    code, printed = start(words, tmp_path / "again.txt").wait()
    assert code == 0, printed  # with room again the same command resumes


def test_damaged_weights_are_not_tested_as_somebody_elses(call, run_folder):
    call("--optim.epochs", "1")
    best = run_folder / "checkpoints/best.pt"
    whole = bytearray(best.read_bytes())
    whole[len(whole) // 2] ^= 1
    best.write_bytes(whole)
    for words in (("--phase", "test"), ("--phase", "test", "--data.stream", "bone"), ()):
        done = call("--weights", str(best), "--name", "other", *words)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "does not match its digest" in done.err
