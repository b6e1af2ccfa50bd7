"""Schedule, weight average and scaler."""

from __future__ import annotations

import math

import pytest
import torch

from engine.optim import (
    autocast,
    build_average,
    build_optimizer,
    build_scaler,
    learning_rate,
    precision,
    remarks_on_precision,
    set_learning_rate,
)
from engine.schema import OptimConfig


def published_rate(epoch: int) -> float:
    """CTR-GCN on NTU, epochs counted from 0: warm-up over 5 epochs, then a tenth from 35 and a hundredth from 55."""
    if epoch < 5:
        return 0.1 * (epoch + 1) / 5
    return 0.1 if epoch < 35 else 0.01 if epoch < 55 else 0.001


def test_schedule_is_the_published_one():
    config = OptimConfig(lr=0.1, warmup_epochs=5, milestones=[35, 55])
    for epoch in range(65):
        for done in (epoch, epoch + 0.5, epoch + 0.99):
            assert learning_rate(config, done) == pytest.approx(published_rate(epoch), rel=1e-12), done


def test_no_warm_up_starts_at_the_full_rate():
    config = OptimConfig(lr=0.3, warmup_epochs=0, milestones=[])
    assert learning_rate(config, 0) == 0.3


def test_steady_decay_is_that_of_hcn():
    config = OptimConfig(name="adam", lr=1e-3, warmup_epochs=0, milestones=[], decay=0.99)
    for epoch in range(400):
        assert learning_rate(config, epoch) == pytest.approx(1e-3 * 0.99**epoch, rel=1e-9)


def test_cosine_is_that_of_hdgcn():
    """90 epochs of 10 steps: five of warm-up, constant within an epoch, then 0.1 to 1e-4 from step to step."""
    config = OptimConfig(lr=0.1, epochs=90, warmup_epochs=5, milestones=[], cosine=1e-3)
    for step in range(900):
        expected = 0.1 * (step // 10 + 1) / 5
        if step >= 50:
            expected = 1e-4 + (0.1 - 1e-4) * (1 + math.cos(math.pi * (step - 50) / 850)) / 2
        assert learning_rate(config, step / 10) == pytest.approx(expected, rel=1e-12), step


def test_a_new_rate_acts_on_the_next_step():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer([weight], OptimConfig(nesterov=False, momentum=0.0, weight_decay=0.0))
    set_learning_rate(optimizer, 0.25)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == -0.25


def test_sgd_step_with_nesterov_momentum_and_weight_decay():
    config = OptimConfig(lr=0.5, momentum=0.9, nesterov=True, weight_decay=0.1, warmup_epochs=0)
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = build_optimizer([weight], config)
    weight.grad = torch.tensor([1.0])
    optimizer.step()
    gradient = 1.0 + 0.1 * 2.0
    assert weight.item() == pytest.approx(2.0 - 0.5 * (gradient + 0.9 * gradient))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_factors_of_weight_decay_are_those_of_the_parameters(name):
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(4)]
    config = OptimConfig(name=name, weight_decay=0.1)
    optimizer = build_optimizer(weights, config, {weights[1]: 10.0, weights[2]: 0.0})
    decay = {weight: group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert [decay[weight] for weight in weights] == [0.1, 1.0, 0.0, 0.1]
    set_learning_rate(optimizer, 0.3)
    assert {group["lr"] for group in optimizer.param_groups} == {0.3}


@pytest.mark.parametrize("decay", [0.9, 0.9995, 0.9999])
def test_integers_are_copied_into_the_average(decay):
    """As averages of equal integers, some would be cut to the integer below."""
    encoder = torch.nn.BatchNorm1d(2)
    encoder.register_buffer("table", torch.arange(64))
    average = build_average(encoder, OptimConfig(ema_decay=decay))
    for _ in range(10):
        encoder.num_batches_tracked += 1
        average.follow(encoder, torch.tensor(True))
    assert torch.equal(average.module.table, encoder.table)
    assert average.module.num_batches_tracked == 10


def test_average_follows_weights_and_statistics():
    encoder = torch.nn.BatchNorm1d(2)
    average = build_average(encoder, OptimConfig(ema_decay=0.75))
    assert average is not None
    average.follow(encoder, torch.tensor(True))  # the first one copies
    with torch.no_grad():
        encoder.weight.fill_(5.0)
        encoder.running_mean.fill_(8.0)
    average.follow(encoder, torch.tensor(True))
    with torch.no_grad():
        encoder.weight.fill_(torch.nan)
    average.follow(encoder, torch.tensor(False))
    assert average.n_averaged == 2
    assert average.module.weight.tolist() == pytest.approx([2.0, 2.0])  # 0.75 * 1 + 0.25 * 5
    assert average.module.running_mean.tolist() == pytest.approx([2.0, 2.0])  # 0.75 * 0 + 0.25 * 8


def test_no_average_unless_asked_for():
    assert build_average(torch.nn.Linear(1, 1), OptimConfig()) is None


@pytest.mark.parametrize(("amp", "scales"), [("off", False), ("bf16", False), ("fp16", True)])
def test_only_float16_scales_gradients(amp, scales):
    assert build_scaler(torch.device("cpu"), OptimConfig(amp=amp)).is_enabled() == scales


@pytest.mark.parametrize(
    ("amp", "published", "on_cuda", "on_cpu"),
    [
        ("auto", "fp16", "fp16", "off"),
        ("auto", "off", "off", "off"),
        ("off", "fp16", "off", "off"),
        ("bf16", "fp16", "bf16", "bf16"),
    ],
)
def test_auto_precision_is_that_of_the_recipe_on_cuda(amp, published, on_cuda, on_cpu):
    config = OptimConfig(amp=amp, published_amp=published)
    assert precision(torch.device("cuda"), config) == on_cuda
    assert precision(torch.device("cpu"), config) == on_cpu
    assert autocast(torch.device("cpu"), config)._enabled == (on_cpu != "off")


@pytest.mark.parametrize(
    ("amp", "device", "processor", "warned"),
    [
        ("bf16", "cpu", "AVX2", True),
        ("bf16", "cpu", "AVX512", False),
        ("bf16", "cuda", "AVX2", False),
        ("fp16", "cpu", "AVX2", False),
        ("auto", "cpu", "AVX2", False),
    ],
)
def test_emulated_bfloat16_is_warned_of_where_it_was_asked_for(monkeypatch, amp, device, processor, warned):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    lines = remarks_on_precision(torch.device(device), OptimConfig(amp=amp, published_amp="bf16"))
    assert len(lines) == warned
    assert all("optim.amp is bf16" in line and "8 times" in line and "--optim.amp off" in line for line in lines)
