"""Numbers: those that go wrong never reach a checkpoint or a bank; those that are right repeat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.checkpoint import load_checkpoint
from engine.config import resolve
from engine.experiment import Experiment, build
from feeders.feeder import Feeder
from tests.engine.compare import records
from tests.engine.tiny import TinyEncoder

GOLDEN = Path(__file__).with_name("golden_curve.json")
PLAIN = ("--csre.enabled", "false")


def poison(monkeypatch, indices: list[int]) -> None:
    """Let the clips of some training indices hold NaN."""
    original = Feeder.feed

    def poisoned(self, wanted, *rest):
        batch = original(self, wanted, *rest)
        if self.split == "train":
            batch.x[torch.isin(batch.indices, torch.tensor(indices))] = torch.nan
        return batch

    monkeypatch.setattr(Feeder, "feed", poisoned)


def finite(content: object) -> bool:
    """Whether all numbers of a checkpoint are."""
    if isinstance(content, torch.Tensor):
        return bool(torch.isfinite(content).all()) if content.is_floating_point() else True
    if isinstance(content, dict):
        return all(map(finite, content.values()))
    return all(map(finite, content)) if isinstance(content, list) else True


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_non_finite_step_can_be_skipped(call, run_folder, monkeypatch, amp):
    poison(monkeypatch, [7])
    words = ("--optim.ema_decay", "0.9", "--log.every_steps", "1", "--optim.amp", amp)
    done = call("--optim.on_non_finite", "skip", *words)
    assert done.code == 0, done.err
    warnings = [line for line in done.out.splitlines() if "skipped" in line]
    assert len(warnings) == 2  # one step of each epoch
    assert "epoch 1, step " in warnings[0]
    assert "epoch 2, step " in warnings[1]
    assert [line["skipped_steps"] for line in records(run_folder, "train")] == [1, 1]
    steps = records(run_folder, "step")
    assert len(steps) == 2 * (80 // 16 - 1)
    for line in records(run_folder, "train"):  # the means are those of the steps that count
        counted = [step["loss"] for step in steps if step["epoch"] == line["epoch"]]
        assert line["loss"] == pytest.approx(sum(counted) / len(counted), rel=1e-5)
    for path in (run_folder / "checkpoints").iterdir():  # neither weights, statistics, average nor banks
        assert finite(load_checkpoint(path))


def test_a_skipped_step_leaves_nothing_behind(call, run_folder, monkeypatch):
    """An epoch whose every step but the first is not finite ends with the weights and statistics of one step."""
    words = (*PLAIN, "--optim.on_non_finite", "skip", "--optim.epochs", "1", "--data.repeat", "1")
    first = build_small(call).train_clips.epoch_indices(1)[:16]
    with monkeypatch.context() as patch:
        poison(patch, sorted(set(range(80)) - set(first.tolist())))
        assert call(*words).code == 0
    run = build_small(call, *PLAIN)
    run.encoder.train()
    batch = run.train_clips.feed(first, 1)
    torch.nn.functional.cross_entropy(run.encoder(batch.x), batch.labels).backward()
    run.optimizer.step()
    stored = load_checkpoint(run_folder / "checkpoints/last.pt")["training"]["encoder"]
    for name, value in run.encoder.state_dict().items():
        assert torch.allclose(value, stored[name]), name


def build_small(call, *words: str) -> Experiment:
    resolved = resolve(["--config", str(call.config), *words])
    assert resolved is not None
    return build(resolved.config)


def test_an_epoch_whose_steps_were_all_skipped_says_so(call, run_folder, monkeypatch, coarse_figures):
    poison(monkeypatch, list(range(80)))
    done = call("--optim.on_non_finite", "skip", "--log.figures", "true")
    assert done.code == 0, done.err
    assert "all steps of epoch 1 were skipped" in done.out
    assert [line["skipped_steps"] for line in records(run_folder, "train")] == [5, 5]


def test_too_many_skipped_steps_stop_the_run(call, run_folder, monkeypatch):
    poison(monkeypatch, list(range(80)))
    done = call("--optim.on_non_finite", "skip", "--optim.max_skips", "3")
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "3 steps in a row" in done.err
    assert "epoch 1, step 3" in done.err
    assert not (run_folder / "checkpoints/last.pt").exists()


def test_a_learning_rate_that_is_too_high_stops_the_run_and_ruins_no_checkpoint(call, run_folder):
    words = ("--optim.lr", "1e20", "--optim.epochs", "4", "--log.checkpoint_steps", "1", "--log.keep_checkpoints", "9")
    done = call(*words)
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "optim.lr" in done.err
    for path in (run_folder / "checkpoints").iterdir():
        assert finite(load_checkpoint(path))


def test_a_gradient_that_is_not_finite_stops_before_the_update(call, run_folder, monkeypatch):
    monkeypatch.setattr(TinyEncoder, "own_losses", lambda self, labels: {"own": (0 * self.linear.bias).sqrt().sum()})
    done = call()
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "own 0" in done.err  # the loss is fine, its gradient is not
    assert "epoch 1, step 1" in done.err


@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_a_batch_norm_statistic_that_is_not_finite_belongs_to_the_step(call, run_folder, monkeypatch, choice):
    """A clip at 1e30 m: normalised it is harmless, so the loss is finite, but the variance is not."""
    original = Feeder.feed

    def remote(self, indices, *rest):
        batch = original(self, indices, *rest)
        if self.split == "train":
            batch.x[batch.indices == 7] = 1e30
        return batch

    monkeypatch.setattr(Feeder, "feed", remote)
    done = call("--optim.on_non_finite", choice, "--optim.epochs", "1")
    text = done.err if choice == "stop" else "".join(line for line in done.out.splitlines() if "WARNING" in line)
    assert done.code == (3 if choice == "stop" else 0), done.err
    assert "a batch-norm statistic is not finite in epoch 1, step " in text
    assert f"clips: {build_small(call).train_clips.names[7]}. " in text
    if choice == "skip":
        assert records(run_folder, "train")[0]["skipped_steps"] == 1
        assert all(finite(load_checkpoint(path)) for path in (run_folder / "checkpoints").iterdir())


def test_logits_that_overflow_float16_in_a_test_end_with_the_way_out(call, run_folder, monkeypatch):
    original = TinyEncoder.classify

    def large(self, features):
        return original(self, features) * (1.0 if self.training else 1e6)

    monkeypatch.setattr(TinyEncoder, "classify", large)
    for _ in range(2):  # the same command says the same
        done = call("--optim.amp", "fp16", *PLAIN)
        assert (done.code, done.err.count("\n")) == (3, 1)
        assert "--optim.amp bf16 or off" in done.err
    assert call("--phase", "test", "--optim.amp", "off", "--weights", str(run_folder / "checkpoints/last.pt")).code == 0


def test_a_streak_of_float16_overflows_stops_the_run(call, run_folder, monkeypatch):
    monkeypatch.setattr(TinyEncoder, "own_losses", lambda self, labels: {"own": 1e35 * self.linear.bias.sum()})
    done = call("--optim.amp", "fp16", "--optim.max_skips", "3", *PLAIN)
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "overflowed float16 in 3 steps in a row" in done.err
    assert "bf16" in done.err


def test_seeds_decide_everything(call, run_folder):
    weights = {}
    for name, seed in (("one", "1"), ("again", "1"), ("other", "2")):
        assert call("--name", name, "--seed", seed).code == 0
        weights[name] = load_checkpoint(run_folder.with_name(name) / "checkpoints/last.pt")["training"]
    for part in ("encoder", "csre"):
        one, again, other = (weights[name][part] for name in ("one", "again", "other"))
        assert all(torch.equal(one[name], again[name]) for name in one)
        moving = [name for name in one if one[name].is_floating_point()]
        assert not any(torch.equal(one[name], other[name]) for name in moving)


def test_augmentation_follows_seed_and_epoch(call):
    feeders = [build_small(call, "--seed", seed).train_clips for seed in ("1", "1", "2")]
    some = torch.arange(8)
    one, again, other = (feeder.feed(some, 1).x for feeder in feeders)
    assert torch.equal(one, again)
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, feeders[0].feed(some, 2).x, strict=True))


def test_a_curve_of_twenty_steps_is_the_one_that_was_kept(call, run_folder):
    """Kept from this project's own first such run: a change of these numbers is a change of what is computed.

    To keep a new one on purpose, delete the file and run this test once.
    """
    assert call("--optim.epochs", "4", "--log.every_steps", "1").code == 0
    names = ("loss", "cross_entropy", "spatial", "temporal", "top1")
    curve = {name: [line[name] for line in records(run_folder, "step")] for name in names}
    assert len(curve["loss"]) == 20
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(curve, indent=1) + "\n")
        pytest.fail(f"{GOLDEN.name} was missing; it is written, look at it and run this test again")
    for name, values in json.loads(GOLDEN.read_text()).items():
        assert np.allclose(curve[name], values, rtol=1e-4), name
