"""2S-AGCN: its graph convolution, initial values, options and the amount of arithmetic, from its specification."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from graph import get_skeleton, spatial_partition
from model import EncoderError, build_encoder
from model.agcn import AdaptiveGraphConvolution
from tests.model.draws import assert_normal

BLOCKS = [(3, 64, 1), *[(64, 64, 1)] * 3, (64, 128, 2), *[(128, 128, 1)] * 2, (128, 256, 2), *[(256, 256, 1)] * 2]
"""(C_in, C_out, stride) of l1 to l10."""

PARAMETERS = [40_595, *[57_779] * 3, 204_563, *[224_275] * 2, 808_659, *[889_043] * 2]
"""Of l1 to l10, on 25 joints."""


def build(graph="ntu", num_classes=60, num_persons=2, window=64, **options: object):
    torch.manual_seed(0)
    skeleton = get_skeleton(graph)
    return build_encoder(
        "agcn", skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window, **options
    )


@pytest.fixture(scope="module")
def encoder():
    return build()


def random_layer(in_channels, out_channels, adjacency):
    """A graph convolution with nothing at its initial value, in double precision and evaluation mode."""
    torch.manual_seed(0)
    layer = AdaptiveGraphConvolution(in_channels, out_channels, adjacency).double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))
    return layer


@pytest.mark.parametrize(("in_channels", "out_channels"), [(3, 8), (8, 8)])
def test_graph_convolution_one_subset_and_joint_at_a_time(in_channels, out_channels):
    """Neutral running statistics: a normalisation is its weight over sqrt(1 + eps), plus its bias."""
    joints, frames, width = 5, 6, out_channels // 4
    adjacency = torch.rand(3, joints, joints, dtype=torch.float64)
    layer = random_layer(in_channels, out_channels, adjacency)
    x = torch.randn(2, in_channels, joints, frames, dtype=torch.float64)

    def normalised(bn, y):
        return y / math.sqrt(1 + 1e-5) * bn.weight.view(-1, 1, 1) + bn.bias.view(-1, 1, 1)

    maps = layer.embeddings(x).split(width, dim=1)
    total = torch.zeros(2, out_channels, joints, frames, dtype=torch.float64)
    for k in range(3):
        a, b = maps[k], maps[3 + k]
        weight = layer.weight[:, k * in_channels : (k + 1) * in_channels]
        for clip in range(2):
            for w in range(joints):
                products = [(a[clip, :, v] * b[clip, :, w]).sum() / (width * frames) for v in range(joints)]
                share = torch.stack(products).softmax(dim=0)
                received = sum(
                    (adjacency[k, v, w] + layer.learned[k, v, w] + share[v]) * x[clip, :, v] for v in range(joints)
                )
                total[clip, :, w] += weight[:, :, 0, 0] @ received + layer.bias[k].unsqueeze(1)
    down = x if in_channels == out_channels else normalised(layer.down.bn, layer.down.conv(x))
    expected = functional.relu(normalised(layer.bn, total) + down)
    assert expected.any()
    torch.testing.assert_close(layer(x), expected)


def test_the_source_half_of_the_embedding_biases_is_dead():
    """Constant over the joints that the softmax runs over; the target half is not."""
    layer = random_layer(8, 8, torch.rand(3, 5, 5, dtype=torch.float64))
    layer(torch.randn(2, 8, 5, 6, dtype=torch.float64)).square().sum().backward()
    source, target = layer.embeddings.bias.grad.abs().chunk(2)
    assert source.max() < 1e-12
    assert target.min() > 1e-6


def test_half_precision_does_not_overflow():
    """The sum behind a similarity would exceed float16's 65504, its mean does not."""
    layer = AdaptiveGraphConvolution(8, 8, torch.rand(3, 5, 5)).eval()
    x = 300 * torch.ones(1, 8, 5, 64)
    with torch.no_grad():
        layer.embeddings.weight.fill_(0.1 / 8)
        assert (2 * 64 * layer.embeddings(x).square()).min() > 65504
        with torch.autocast("cpu", dtype=torch.float16):
            topology = layer._topology(x)
    torch.testing.assert_close(topology[0].float(), layer.adjacency + layer.learned + 1 / 5, rtol=1e-3, atol=1e-3)


def test_the_graph_is_fixed_and_what_is_added_starts_at_almost_nothing(encoder):
    adjacency = torch.from_numpy(spatial_partition(encoder.skeleton))
    for block in encoder.blocks.values():
        assert torch.equal(block.gcn.adjacency, adjacency)
        assert torch.equal(block.gcn.learned, torch.full_like(adjacency, 1e-6))
        assert block.gcn.learned.requires_grad
        assert torch.equal(block.gcn.bn.weight, torch.full_like(block.gcn.bn.weight, 1e-6))
    assert not any("adjacency" in name for name in encoder.state_dict())


@pytest.mark.parametrize("number", range(10))
def test_initial_weights(encoder, number):
    in_channels, out_channels, _ = BLOCKS[number]
    block = encoder.blocks[f"l{number + 1}"]
    assert_normal(block.gcn.embeddings.weight, math.sqrt(2 / (out_channels // 4)))
    assert_normal(block.gcn.weight, math.sqrt(2 / (out_channels * in_channels * 3)))
    assert_normal(block.tcn.conv.weight, math.sqrt(2 / (out_channels * 9)))
    assert (block.tcn.bn.weight == 1).all()
    projections = [block.gcn.down] if in_channels != out_channels else []
    if in_channels != out_channels and number > 0:
        projections.append(block.residual)
    for projection in projections:
        assert_normal(projection.conv.weight, math.sqrt(2 / out_channels))
        assert (projection.bn.weight == 1).all()


def test_biases_start_at_zero(encoder):
    biases = {name: value for name, value in encoder.named_parameters() if "bias" in name and "fc" not in name}
    assert len(biases) > 50
    assert all((value == 0).all() for value in biases.values())


def test_initial_classifier_and_input_normalisation(encoder):
    assert_normal(encoder.fc.linear.weight, math.sqrt(2 / 60))
    assert encoder.fc.linear.bias.abs().max() <= 1 / 16
    assert encoder.fc.linear.bias.std() > 0
    assert (encoder.data_bn.norm.weight == 1).all()


@pytest.mark.parametrize(
    ("graph", "num_classes", "persons", "window", "parameters"),
    [("ntu", 60, 2, 64, 3_469_510), ("ntu", 120, 2, 64, 3_484_930), ("nw-ucla", 10, 1, 52, 3_449_730)],
)
def test_number_of_parameters(graph, num_classes, persons, window, parameters):
    encoder = build(graph, num_classes, persons, window)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


def test_number_of_parameters_of_every_block(encoder):
    counts = [sum(p.numel() for p in block.parameters()) for block in encoder.blocks.values()]
    assert counts == PARAMETERS


@pytest.mark.parametrize(
    ("graph", "num_classes", "persons", "window", "macs"),
    [("ntu", 60, 2, 64, 4_140_255_360), ("nw-ucla", 10, 1, 52, 1_333_552_960)],
)
def test_multiply_accumulates(graph, num_classes, persons, window, macs):
    encoder = build(graph, num_classes, persons, window).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, window, encoder.skeleton.num_joints, persons))
    assert counter.get_total_flops() == 2 * macs


@pytest.mark.parametrize(("window", "frames"), [(64, 16), (52, 13), (17, 5), (1, 1)])
def test_two_blocks_halve_the_frames(window, frames):
    encoder = build("nw-ucla", 5, 1, window, base_channels=4).eval()
    assert encoder.feature_shape == (16, frames, 20)
    with torch.no_grad():
        assert encoder.features(torch.zeros(1, 3, window, 20, 1)).shape == (1, 1, 16, frames, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_channels": 6}, "base_channels: must be a multiple of 4, got 6; try 4"),
        ({"base_channels": 0}, "base_channels: must be an integer >= 1, got 0"),
        ({"dropout": 1.0}, "dropout: must be a probability in \\[0, 1\\), got 1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)
