"""The gradient of each loss at the encoder's last map, against arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import one_hot

from engine.config import resolve
from engine.experiment import build
from engine.train import squared_gradients
from tests.engine.test_train import one_step


def test_norms_are_those_of_the_formula_and_a_loss_apart_has_none():
    features = torch.tensor([[3.0, 4.0]], requires_grad=True)
    apart = torch.ones((), requires_grad=True)
    losses = {"linear": 2 * features.sum(), "square": features.square().sum(), "apart": apart, "zero": torch.zeros(())}
    squares = squared_gradients(losses, features)
    assert {name: float(value) for name, value in squares.items()} == {"linear": 8.0, "square": 100.0}
    sum(losses.values()).backward()
    assert features.grad.tolist() == [[8.0, 10.0]], "the graph can be differentiated again"
    assert squared_gradients(losses, features.detach()) == {}


def test_the_cross_entropy_of_a_step_has_the_known_gradient(call):
    """Of a linear layer W behind the mean over S places, d/dX is (p - y) W / (N S) at each place."""
    resolved = resolve(["--config", str(call.config), "--log.every_steps", "1"])
    assert resolved is not None
    run = build(resolved.config)
    step = one_step(run)
    assert list(step.at_features) == ["cross_entropy", "spatial", "temporal"]
    error = step.logits.detach().softmax(dim=1) - one_hot(step.batch.labels, step.logits.shape[1])
    _, frames, joints = run.encoder.feature_shape
    places = frames * joints * run.encoder.num_persons
    at_pooled = error @ run.encoder.linear.weight.detach() / len(error)
    expected = float(at_pooled.norm()) / math.sqrt(places)
    assert math.sqrt(float(step.at_features["cross_entropy"])) == pytest.approx(expected, rel=1e-5)
