"""Runs of several processes: they compute what one process computes, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.checkpoint import load_checkpoint
from fusion.scores import load_scores
from tests.documents import REPOSITORY
from tests.engine.child import Accident, start_ranks
from tests.engine.test_faults import assert_equal_runs

CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def config(clip_folder, tmp_path_factory) -> Path:
    """A run whose batches 1, 2 and 3 processes can share, and whose test batches they cannot share evenly."""
    folder = tmp_path_factory.mktemp("ranks")
    path = folder / "shared.yaml"
    path.write_text(
        f"""
        data: {{benchmark: nw-ucla, path: {clip_folder}, window: 12, repeat: 1}}
        model: {{name: "tests.engine.tiny:TinyEncoder"}}
        csre: {{enabled: true, dim: 16, positives: {{hard: 3, random: 2}}, negatives: {{hard: 8, random: 8}}}}
        optim: {{lr: 0.01, batch_size: 12, test_batch_size: 9, epochs: 1, warmup_epochs: 0, milestones: []}}
        log: {{every_steps: 1, tsne_clips: 0, figures: false, checkpoint_steps: 3}}
        device: cpu
        work_dir: {folder / "runs"}
        """
    )
    return path


@pytest.fixture
def run(config, tmp_path):
    """Run in a number of processes; returns the run folder, the exit codes and what the processes printed."""

    def run(count: int, name: str, *words: str, accidents: dict[int, Accident] | None = None) -> Any:
        children = start_ranks(count, ["--config", str(config), "--name", name, *words], tmp_path, accidents)
        codes, printed = zip(*(child.wait() for child in children), strict=True)
        return config.parent / "runs/nw-ucla" / name, list(codes), printed

    return run


SYNC = ("--optim.sync_batchnorm", "true")


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    (child,) = start_ranks(1, ["--config", str(config), "--name", "alone"], folder)
    code, printed = child.wait()
    assert code == 0, printed
    return config.parent / "runs/nw-ucla/alone"


def losses(folder: Path) -> np.ndarray:
    """The logged losses of all steps, their terms and accuracies, and those of the epoch."""
    names = ("loss", "cross_entropy", "spatial", "temporal", "top1", "active_spatial", "active_temporal")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([[line[name] for name in names] for line in lines if line["kind"] in ("step", "train")])


@pytest.mark.parametrize(
    ("count", "words"), [(2, SYNC), (3, (*SYNC, "--csre.bank.sharded", "true"))], ids=["2", "3 sharded"]
)
def test_several_processes_compute_what_one_does(alone, run, count, words):
    folder, codes, printed = run(count, f"of_{count}", *words)
    assert codes == [0] * count, printed
    assert f"{count} processes" in printed[0]
    assert not any(printed[1:])  # only the first one speaks
    assert np.allclose(losses(folder), losses(alone), **CLOSE)
    one, several = (load_checkpoint(path / "checkpoints/last.pt")["training"] for path in (alone, folder))
    for part in ("encoder", "csre"):  # the weights after an epoch of gradients, and both banks
        assert one[part].keys() == several[part].keys()
        for name, value in one[part].items():
            assert torch.allclose(value.double(), several[part][name].double(), **CLOSE), name
    scores = [load_scores(path / "scores_last.npz") for path in (alone, folder)]
    assert scores[0].names == scores[1].names
    assert np.allclose(scores[0].logits, scores[1].logits, rtol=1e-5, atol=1e-5)


def test_every_process_tests_its_part_and_the_scores_are_those_of_one(alone, run):
    weights = ("--phase", "test", "--weights", str(alone / "checkpoints/last.pt"))
    folder, codes, printed = run(3, "tested", *weights)
    assert codes == [0, 0, 0], printed
    assert np.array_equal(
        load_scores(folder / "test/scores_test.npz").logits, load_scores(alone / "scores_last.npz").logits
    )
    assert not list(folder.glob("scores*"))


def test_a_batch_that_cannot_be_shared_is_refused_once(run):
    folder, codes, printed = run(3, "refused", "--optim.batch_size", "16")
    assert codes == [2, 4, 4], printed
    assert printed[0].count("\n") == 1
    assert "optim.batch_size: 16" in printed[0]
    assert not any(printed[1:])
    assert not folder.exists()


def test_a_signal_to_one_process_stops_all_and_nothing_is_lost(run):
    straight, codes, printed = run(2, "straight", "--optim.epochs", "2")
    assert codes == [0, 0], printed
    accident = {1: Accident(4, (signal.SIGTERM,), "train")}
    folder, codes, printed = run(2, "asked", "--optim.epochs", "2", accidents=accident)
    assert codes == [143, 143], printed
    assert load_checkpoint(folder / "checkpoints/last.pt")["training"]["counters"]["step"] == 4
    folder, codes, printed = run(2, "asked", "--optim.epochs", "2")
    assert codes == [0, 0], printed
    assert_equal_runs(straight, folder, but=("gradient_",))  # the first step after a start has none


def test_a_signal_in_the_last_step_of_an_epoch_stops_all_behind_it(run):
    """Also where no test follows, whose own check would notice it."""
    accident = {1: Accident(2, (signal.SIGTERM,), "train")}
    words = ("--optim.batch_size", "40", "--optim.epochs", "4", "--log.test_every", "4")
    folder, codes, printed = run(2, "asked_last", *words, accidents=accident)
    assert codes == [143, 143], printed
    assert "after epoch 1" in printed[0]
    counters = load_checkpoint(folder / "checkpoints/last.pt")["training"]["counters"]
    assert (counters["trained"], counters["step"]) == (1, 0)


def test_what_went_wrong_in_one_process_stops_all_and_is_told_once(run):
    poisoned = ("--model.name", "tests.engine.tiny:PoisonedEncoder", "--model.options.poisoned", "[3]")
    folder, codes, printed = run(2, "poisoned", *poisoned, "--log.checkpoint_steps", "2")
    assert codes == [3, 3], printed
    told = [line for line in printed[0].splitlines() if "not finite" in line]
    assert len(told) == 1
    assert "epoch 1, step 3" in told[0]
    assert told[0].count("_v0") == 6  # the clips of the second process
    assert not any(printed[1:])
    assert load_checkpoint(folder / "checkpoints/last.pt")["training"]["counters"]["step"] == 2


def test_an_epoch_without_a_step_that_counts_ends_in_all(run):
    poisoned = ("--model.name", "tests.engine.tiny:PoisonedEncoder", "--model.options.poisoned", "[1,2,3,4,5,6]")
    _, codes, printed = run(2, "uncounted", *poisoned, "--optim.on_non_finite", "skip")
    assert codes == [0, 0], printed
    assert "all steps of epoch 1 were skipped" in printed[0]


@pytest.mark.parametrize(
    ("count", "moment"),
    [
        (1, "imports"),
        (2, "training"),
        pytest.param(1, "training", marks=pytest.mark.slow),
        pytest.param(2, "imports", marks=pytest.mark.slow),
    ],
)
def test_no_process_trains_on_without_its_parent(config, tmp_path, count, moment):
    """torchrun killed at once must not leave processes that hold the run folder and the GPUs."""
    words = ["main.py", "--config", str(config), "--name", f"orphans_{count}_{moment}", "--optim.epochs", "9999"]
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={count}", "--standalone"]
    runner = subprocess.Popen(
        [sys.executable, *launcher, *words], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    workers: list[int] = []
    try:
        assert runner.stdout is not None
        while len(workers) < count:
            assert runner.poll() is None, runner.stdout.read()
            children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
            workers = [int(child) for child in children if "main.py" in command_of(int(child))]
            time.sleep(0.01)
        while moment == "training" and "epoch    1/9999" not in (line := runner.stdout.readline()):
            assert line, "torchrun ended"
        time.sleep(0.2 if moment == "imports" else 0)  # the workers have begun to import, which takes seconds
        runner.kill()
        for _ in range(600):
            if not any("main.py" in command_of(worker) for worker in workers):
                break
            time.sleep(0.1)
        else:
            pytest.fail("a worker lives on")
    finally:
        runner.kill()
        runner.wait()
        for worker in workers:
            if "main.py" in command_of(worker):
                os.kill(worker, signal.SIGKILL)


def command_of(process: int) -> str:
    """The command line of a process; empty once it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
