"""The latent classifier and its losses, against their formulas and the published values."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from model.latent import LatentClassifier, conditional_latent_loss, marginal_latent_loss, orthogonal_prior
from tests.model.draws import assert_normal, assert_uniform
from tests.model.parity import LABELS, SKELETONS, Fixture


def build(channels=6, num_classes=4, noise_ratio=0.5, sampling=True, dropout=0.0):
    torch.manual_seed(0)
    return LatentClassifier(channels, num_classes, noise_ratio=noise_ratio, sampling=sampling, dropout=dropout)


def test_evaluation_takes_the_mean():
    head = build().eval()
    features = torch.randn(3, 2, 6, 7, 5)
    hidden = head.hidden(features.flatten(3).mean(-1).mean(1)).clamp(min=0)
    with torch.no_grad():
        expected = head.decoder(head.mean(hidden))
        torch.testing.assert_close(head(features), expected)
        head.log_variance.weight.fill_(9.0)
        torch.testing.assert_close(head(features), expected)
    assert head.drawn is None


@pytest.mark.parametrize(("noise_ratio", "log_variance"), [(0.5, 2 * math.log(3)), (0.1, -2.0), (0.5, 50.0)])
def test_training_draws_around_the_mean(noise_ratio, log_variance):
    head = build(noise_ratio=noise_ratio)
    with torch.no_grad():
        head.log_variance.weight.zero_()
        head.log_variance.bias.fill_(log_variance)
        features = torch.randn(1, 1, 6, 1, 1).expand(5000, 1, 6, 1, 1)
        logits = head(features)
        mean = head.mean(head.hidden(features[:, 0, :, 0, 0]).clamp(min=0))
        assert_normal(head.drawn - mean, min(math.exp(noise_ratio * log_variance), 100))
        torch.testing.assert_close(logits, head.decoder(head.drawn))


def test_an_enormous_log_variance_sends_no_nan_backwards():
    head = build()
    with torch.no_grad():
        head.log_variance.bias.fill_(1000.0)
    head(torch.randn(3, 2, 6, 7, 5)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


def test_without_sampling_training_takes_the_mean():
    head = build(sampling=False)
    features = torch.randn(3, 2, 6, 7, 5)
    logits = head(features)
    assert head.drawn is not None
    assert torch.equal(logits, head(features))
    assert torch.equal(logits, head.eval()(features))


def test_dropout_acts_in_training_alone():
    head = build(sampling=False, dropout=0.5, channels=64)
    features = torch.rand(2, 1, 64, 3, 3)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


def test_a_copy_leaves_the_latest_draw_behind():
    head = build()
    head(torch.randn(3, 2, 6, 7, 5))
    assert head.drawn is not None
    assert head.drawn.requires_grad
    assert copy.deepcopy(head).drawn is None


def test_initial_weights():
    head = build(channels=256, num_classes=60)
    for layer in (head.hidden, head.mean, head.log_variance):
        assert_uniform(layer.weight, math.sqrt(2) * math.sqrt(6 / 512))
        assert_uniform(layer.bias, 1 / 16)
    assert_normal(head.decoder.weight, math.sqrt(2 / 60))
    assert head.decoder.bias.any()


def test_rows_of_the_prior_are_orthogonal_and_always_the_same():
    prior = orthogonal_prior(60, 256, gain=3.0)
    torch.testing.assert_close(prior @ prior.T, 9 * torch.eye(60), atol=1e-5, rtol=0)
    torch.manual_seed(5)
    assert torch.equal(orthogonal_prior(60, 256, gain=3.0), prior)
    many = orthogonal_prior(8, 4, gain=2.0)
    torch.testing.assert_close(many.T @ many, 4 * torch.eye(4), atol=1e-5, rtol=0)


def test_the_conditional_loss_by_hand():
    z = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    prior = torch.tensor([[0.0, 0.0], [9.0, 9.0], [2.0, 1.0]])
    # class 2: mean (2, 2), class 0: mean (0, 0); class 1 is absent.
    loss = conditional_latent_loss(z, torch.tensor([2, 2, 0]), prior)
    assert loss.item() == pytest.approx((0 + 1 + 0 + 0) / 4)


def test_the_marginal_loss_by_hand():
    z = torch.tensor([[2.0, 8.0], [4.0, 0.0]])
    assert marginal_latent_loss(z).item() == pytest.approx(5.0)
    z = torch.zeros(2, 3, requires_grad=True)
    marginal_latent_loss(z).backward()
    assert torch.equal(z.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("graph", SKELETONS)
def test_published_losses(shared, graph):
    fixture = Fixture(shared / "parity" / "encoders" / f"infogcn_{graph}.npz", "infogcn", graph)
    z = fixture.expected("extra/z")
    prior = fixture.by_rule("z_prior", [fixture.arrays["logits"].shape[1], 256])
    np.testing.assert_allclose(conditional_latent_loss(z, LABELS, prior), fixture.arrays["extra/mmd"], rtol=1e-6)
    np.testing.assert_allclose(marginal_latent_loss(z), fixture.arrays["extra/mean_norm"], rtol=1e-6)
