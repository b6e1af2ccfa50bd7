"""The parts of a training step, and the line of an epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import evaluate
from engine.config import resolve
from engine.experiment import Experiment, build
from engine.train import LINE, epoch_line, forward_backward, is_finite, update
from heads import Moment
from tests.engine.tiny import TinyEncoder

LOGITS = np.eye(5, dtype=np.float32)
ACCURACY = evaluate.measure(LOGITS, np.arange(5))
TESTED = evaluate.Tested(ACCURACY, None, LOGITS)


@pytest.fixture
def run(call) -> Experiment:
    resolved = resolve(["--config", str(call.config), "--optim.clip_norm", "0.5"])
    assert resolved is not None
    return build(resolved.config)


def one_step(run: Experiment):
    run.encoder.train()
    return forward_backward(run, run.train_clips.feed(torch.arange(16), 1), Moment(1, 1, 5))


def test_the_loss_is_the_sum_of_all_losses(run):
    step = one_step(run)
    assert list(step.losses) == ["cross_entropy", "spatial", "temporal"]
    assert step.loss == sum(step.losses.values())
    assert torch.allclose(step.per_clip.mean(), step.losses["cross_entropy"])


def test_every_group_of_the_optimiser_is_clipped_and_checked(run):
    """A second group was clipped as if it were not there."""
    (group,) = run.optimizer.param_groups
    group["params"], rest = group["params"][:2], group["params"][2:]
    run.optimizer.add_param_group({"params": rest})
    step = one_step(run)
    everything = [weight for weight in run.forward.parameters() if weight.grad is not None]
    norm = torch.stack([weight.grad.norm() for weight in everything]).norm()
    assert step.norm > 0.5
    assert torch.allclose(step.norm, norm)
    update(run, step)
    assert torch.stack([weight.grad.norm() for weight in everything]).norm() <= 0.5 + 1e-4


def test_the_encoder_edits_clipped_gradients_right_before_the_update(run, monkeypatch):
    step = one_step(run)
    parameters = [weight for weight in run.encoder.parameters() if weight.grad is not None]
    seen = []

    def edit():
        seen.append([weight.grad.norm() for weight in parameters])
        for weight in parameters:
            weight.grad.zero_()

    monkeypatch.setattr(run.encoder, "edit_gradients", edit)
    (group,) = run.optimizer.param_groups
    group["weight_decay"] = 0.0
    before = [weight.detach().clone() for weight in parameters]
    update(run, step)
    assert 0 < torch.stack(seen[0]).norm() <= 0.5 + 1e-4
    assert len(seen) == 1
    assert all(torch.equal(old, new) for old, new in zip(before, parameters, strict=True))


def test_what_is_dropped_depends_on_seed_epoch_and_step_alone(call):
    words = ["--config", str(call.config), "--model.name", "tests.engine.tiny:DroppingEncoder"]
    runs = [build(resolve([*words, "--seed", seed]).config) for seed in ("0", "0", "1")]
    runs[2].encoder.load_state_dict(runs[0].encoder.state_dict())

    def loss(run, epoch, step):
        torch.rand(1)  # what else was drawn does not matter
        batch = runs[0].train_clips.feed(torch.arange(16), 1)
        return forward_backward(run, batch, Moment(epoch, step, 5)).losses["cross_entropy"].item()

    first = loss(runs[0], 2, 3)
    assert loss(runs[0], 2, 3) == first
    assert loss(runs[1], 2, 3) == first
    assert first not in (loss(runs[0], 2, 4), loss(runs[0], 3, 3), loss(runs[2], 2, 3))


def test_a_run_has_the_encoders_factors_of_weight_decay(call, monkeypatch):
    monkeypatch.setattr(TinyEncoder, "weight_decay_factors", lambda self: {"conv.weight": 10.0})
    run = build(resolve(["--config", str(call.config), "--optim.weight_decay", "0.01"]).config)
    decay = {weight: group["weight_decay"] for group in run.optimizer.param_groups for weight in group["params"]}
    assert {name: decay[weight] for name, weight in run.encoder.named_parameters()} == {
        name: 0.1 if name == "conv.weight" else 0.01 for name, _ in run.encoder.named_parameters()
    }
    assert len(decay) == len(list(run.forward.parameters()))


def test_a_step_is_finite_until_a_loss_a_gradient_or_a_statistic_is_not(run):
    step = one_step(run)
    assert is_finite(run, step)
    assert not is_finite(run, step._replace(loss=step.loss * torch.nan))
    assert not is_finite(run, step._replace(norm=step.norm * torch.inf))
    run.encoder.norm.running_var[0] = torch.inf
    assert not is_finite(run, step)


def test_a_head_may_not_take_the_name_of_another_loss(run, monkeypatch):
    head = run.heads["csre"]
    monkeypatch.setattr(head, "losses", lambda *rest: {"cross_entropy": rest[0]["spatial"].sum()})
    with pytest.raises(Exception, match="csre: its loss 'cross_entropy' has the name of another one"):
        one_step(run)


def line(run: Experiment, losses: dict[str, float], tested=TESTED, trained: int = 3, **means: float) -> str:
    run.config.optim.epochs = 65
    run.counters.trained, run.counters.best_epoch, run.counters.best_top1 = trained, trained, 78.66
    run.loss_names = list(losses)
    values = {**losses, "loss": sum(losses.values()), "top1": 61.23, "clips_per_second": 311.4, **means}
    return epoch_line(run, values, tested)


CSRE = {"cross_entropy": 1.034, "spatial": 6.936, "temporal": 6.934}


def test_an_epoch_is_one_line(run):
    tested = evaluate.Tested(replace(ACCURACY, top1=78.66), None, LOGITS)
    assert line(run, CSRE, tested) == (
        "epoch  3/65  loss 14.90 (ce 1.03, spatial 6.94, temporal 6.93)  train 61.23  test 78.66 % (best 78.66 @ 3)  "
        "311 clips/s"
    )
    assert line(run, {"cross_entropy": 1.034}, tested) == (
        "epoch  3/65  loss 1.034  train 61.23  test 78.66 % (best 78.66 @ 3)  311 clips/s"
    )


def test_an_epoch_without_test_or_training(run):
    untested = line(run, CSRE, tested=None)
    assert untested.endswith("(ce 1.034, spatial 6.936, temporal 6.934)  train 61.23 %  311 clips/s")
    assert epoch_line(run, None, TESTED) == "epoch  3/65  test 100.00 % (best 78.66 @ 3)"
    assert epoch_line(run, {"clips_per_second": 5.0}, None) == "epoch  3/65  5 clips/s"


def test_the_line_is_never_longer_than_it_may_be(run):
    many = CSRE | {f"refinement_{name}_{axis}": 12345.678 for name in "abcd" for axis in ("spatial", "temporal")}
    for losses in (CSRE, many):
        for tested in (TESTED, evaluate.Tested(ACCURACY, ACCURACY, LOGITS)):
            text = line(run, losses, tested, trained=65, top1=100.0, clips_per_second=1234.0)
            assert len(text) <= LINE
            assert "loss 14.9" in text or "loss 98780." in text
    assert "ce 1.0, 10 others 98779.3" in line(run, many)
