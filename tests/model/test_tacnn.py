"""Ta-CNN: its augmentation, velocity, initial values and classifier, from its specification."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from graph import get_skeleton
from model import EncoderError, build_encoder
from model.tacnn import Augmentation, velocity_of
from tests.model.draws import assert_normal, assert_uniform


def build(graph="ntu", num_classes=60, **options):
    torch.manual_seed(0)
    return build_encoder("tacnn", skeleton=get_skeleton(graph), num_classes=num_classes, **options)


@pytest.fixture(scope="module")
def encoder():
    return build().eval()


def test_velocity_is_zero_in_the_first_frame():
    positions = torch.tensor([1.0, 4.0, 2.0, 2.0]).view(1, 1, 1, 4)
    assert velocity_of(positions).flatten().tolist() == [0, 3, -2, 0]


@pytest.mark.parametrize(("groups", "kernel"), [(10, (1, 3)), (6, (3, 3))])
def test_an_augmentation_group_by_group(groups, kernel):
    torch.manual_seed(0)
    layer = Augmentation(5, 32, groups, kernel).double()
    x = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    entered = torch.einsum("dc,nchw->ndhw", layer.enter.weight[..., 0, 0], x).relu()
    assert entered.shape[1] == 30
    hidden = (entered.mean(dim=(2, 3)) @ layer.squeeze.weight[..., 0, 0].T).relu()
    gated = entered * (hidden @ layer.excite.weight[..., 0, 0].T).sigmoid()[..., None, None]
    total = torch.zeros_like(gated)
    for convolution, number, padding in (
        (layer.wide, groups, [size // 2 for size in kernel]),
        (layer.narrow, groups // 2, 0),
    ):
        parts = zip(gated.chunk(number, dim=1), convolution.weight.chunk(number), strict=True)
        total += torch.cat([functional.conv2d(part, weight, padding=padding) for part, weight in parts], dim=1).relu()
    expected = torch.einsum("dc,nchw->ndhw", layer.leave.weight[..., 0, 0], total).relu()
    assert (expected > 0).any()
    torch.testing.assert_close(layer(x), expected)


def test_the_classifier_takes_the_largest_of_both_persons_after_the_mean_over_time(encoder):
    features = torch.rand(3, 2, 256, 8, 4)
    persons = []
    for person in features.unbind(1):
        blocks = person.unflatten(-1, (2, 2)).unflatten(-3, (4, 2))  # (N, C, T' / 2, 2, 2, 2)
        persons.append(blocks.amax(dim=(-3, -1)).mean(dim=2).flatten(1))
    expected = torch.maximum(*persons) @ encoder.fc.weight.T + encoder.fc.bias
    torch.testing.assert_close(encoder.classify(features), expected)


def test_initial_weights(encoder):
    convolutions = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 2 * 14 + 2
    for layer in convolutions:
        area, outputs = math.prod(layer.kernel_size), layer.out_channels
        bound = math.sqrt(6 / ((layer.in_channels // layer.groups + outputs) * area))
        assert_uniform(layer.weight, bound)
        assert layer.bias is None or not layer.bias.any()
    assert_normal(encoder.fc.weight, 0.01)
    assert not encoder.fc.bias.any()


@pytest.mark.parametrize(("window", "frames"), [(64, 8), (52, 6), (17, 2), (16, 2)])
def test_the_frames_of_the_map_follow_the_window(window, frames):
    encoder = build("nw-ucla", 5, num_persons=1, window=window).eval()
    assert encoder.feature_shape == (256, frames, 4)
    with torch.no_grad():
        assert encoder.features(torch.zeros(1, 3, window, 20, 1)).shape == (1, 1, 256, frames, 4)


def test_a_window_that_leaves_nothing_is_refused():
    with pytest.raises(
        EncoderError, match="window: 15 frames halved four times leave none for Ta-CNN; take 16 or more"
    ):
        build(window=15)
    with pytest.raises(EncoderError, match="dropout: must be a probability"):
        build(dropout=1.0)
