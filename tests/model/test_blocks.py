"""Shared blocks, each against its definition."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from model.blocks import MultiScaleTemporal, PersonNorm, PooledClassifier, TemporalMaxPool


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 7, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pooling_is_the_maximum_of_three_frames(stride, frames, dtype):
    x = torch.randn(2, 3, 4, frames, dtype=dtype)
    expected = [x[..., max(0, t - 1) : t + 2].amax(-1) for t in range(0, frames, stride)]
    torch.testing.assert_close(TemporalMaxPool(stride)(x), torch.stack(expected, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_equal_frames_the_first_receives_the_gradient(dtype):
    x = torch.ones(1, 1, 1, 5, dtype=dtype)
    if dtype == torch.float64:
        x[..., 1::2] += 1e-14  # what rounding does to an absent person
    x.requires_grad_()
    TemporalMaxPool()(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [2, 1, 1, 1, 0]


def test_person_norm_has_statistics_per_person_joint_and_coordinate():
    x = torch.randn(4, 3, 6, 5, 2) + torch.arange(5).view(5, 1) + 10 * torch.arange(2)
    norm = PersonNorm(channels=3, num_joints=5, num_persons=2)
    with torch.no_grad():
        norm.norm.weight.copy_(torch.arange(30.0))
        y = norm(x)
    assert y.shape == (8, 3, 5, 6)
    for clip, person, joint, coordinate in [(0, 0, 0, 0), (3, 1, 4, 2), (2, 0, 3, 1)]:
        values = x[:, coordinate, :, joint, person]
        weight = person * 15 + joint * 3 + coordinate
        expected = weight * (values[clip] - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(y[clip * 2 + person, coordinate, joint], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stride", "frames"), [(1, 9), (2, 9), (2, 8)])
def test_multi_scale_branches_one_by_one(stride, frames):
    """Evaluation mode with neutral running statistics: a normalisation is then its weight over sqrt(1 + eps)."""
    torch.manual_seed(0)
    block = MultiScaleTemporal(8, stride).eval()
    x = torch.randn(2, 8, 5, frames)
    scale = (1 + 1e-5) ** -0.5

    def weighted(branch, norm, y):
        return scale * norm.weight[2 * branch : 2 * branch + 2].view(2, 1, 1) * y

    def entry(branch):
        return functional.conv2d(x, block.entry.weight[2 * branch : 2 * branch + 2])

    expected = []
    for branch, dilation in enumerate((1, 2)):
        y = functional.relu(weighted(branch, block.entry_bn, entry(branch)))
        weight = block.convs[branch].weight
        y = functional.conv2d(y, weight, stride=(1, stride), padding=(0, 2 * dilation), dilation=(1, dilation))
        expected.append(weighted(branch, block.bn, y))
    pooled = functional.relu(weighted(2, block.entry_bn, entry(2)))
    expected.append(weighted(2, block.bn, functional.max_pool2d(pooled, (1, 3), (1, stride), (0, 1))))
    expected.append(weighted(3, block.bn, entry(3)[..., ::stride]))
    torch.testing.assert_close(block(x), torch.cat(expected, dim=1))


def test_pooled_classifier_averages_persons_alike():
    classifier = PooledClassifier(channels=6, num_classes=4)
    features = torch.randn(3, 2, 6, 7, 5)
    features[1, 1] = 0
    pooled = features.flatten(3).mean(-1).mean(1)
    torch.testing.assert_close(classifier(features), classifier.linear(pooled))
