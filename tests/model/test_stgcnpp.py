"""ST-GCN++: its graph, temporal branches, initial values and sizes, from its specification."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from graph import get_skeleton, spatial_partition, with_tips_on_hands
from model import EncoderError, build_encoder
from model.stgcnpp import BranchesTransform, FreeGraphConvolution
from tests.model.draws import assert_normal, assert_uniform

PARAMETERS = [13_371, *[24_699] * 3, 83_635, *[91_059] * 2, 323_963, *[355_195] * 2]
"""Of l1 to l10, on 25 joints."""


def build(graph="ntu", num_classes=60, num_persons=2, window=64, **options):
    torch.manual_seed(0)
    skeleton = get_skeleton(graph)
    return build_encoder(
        "stgcnpp", skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window, **options
    )


@pytest.fixture(scope="module")
def encoder():
    return build()


@pytest.mark.parametrize("graph", ["ntu", "ucla"])
def test_the_graph_is_the_published_one(shared, graph):
    skeleton = with_tips_on_hands(get_skeleton({"ntu": "ntu", "ucla": "nw-ucla"}[graph]))
    with np.load(shared / "parity" / "encoders" / f"stgcnpp_{graph}.npz") as fixture:
        np.testing.assert_array_equal(spatial_partition(skeleton), fixture["graph/A"])


def test_every_block_learns_a_graph_of_its_own_from_the_skeletons(encoder):
    adjacency = torch.from_numpy(spatial_partition(with_tips_on_hands(encoder.skeleton)))
    assert [adjacency[k].count_nonzero() for k in range(3)] == [25, 24, 24]
    for block in encoder.blocks.values():
        assert torch.equal(block.gcn.topology, adjacency)
        assert block.gcn.topology.requires_grad


@pytest.mark.parametrize(("in_channels", "out_channels"), [(3, 8), (8, 8)])
def test_graph_convolution_is_relu_of_the_mixed_maps_and_the_way_around_them(in_channels, out_channels):
    """Neutral running statistics: a normalisation divides by sqrt(1 + eps)."""
    torch.manual_seed(0)
    layer = FreeGraphConvolution(in_channels, out_channels, torch.randn(3, 5, 5)).double().eval()
    x = torch.randn(2, in_channels, 5, 6, dtype=torch.float64)
    maps = layer.conv(x).unflatten(1, (3, out_channels))
    mixed = torch.einsum("nkcvt,kvw->ncwt", maps, layer.topology) / math.sqrt(1 + 1e-5)
    around = x if in_channels == out_channels else layer.down.conv(x) / math.sqrt(1 + 1e-5)
    torch.testing.assert_close(layer(x), functional.relu(mixed + around))


@pytest.mark.parametrize(
    ("channels", "widths"), [(64, (14, *[10] * 5)), (128, (23, *[21] * 5)), (256, (46, *[42] * 5))]
)
def test_the_first_branch_takes_what_is_left_over(channels, widths):
    module = BranchesTransform(channels, 1)
    assert module.widths == widths
    assert [conv.dilation for conv in module.convs] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert {conv.kernel_size for conv in module.convs} == {(1, 3)}


def test_initial_weights(encoder):
    for name, layer in encoder.named_modules():
        if isinstance(layer, nn.Conv2d):
            bound = 1 / math.sqrt(layer.in_channels * math.prod(layer.kernel_size))
            if layer.weight.numel() > 1000:
                assert_uniform(layer.weight, bound)
            assert 0 < layer.bias.abs().max() <= bound, name
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
    assert_normal(encoder.fc.linear.weight, 0.01)
    assert (encoder.fc.linear.bias == 0).all()


def test_persons_share_the_statistics_of_the_input(encoder):
    assert encoder.data_bn.norm.num_features == 25 * 3


@pytest.mark.parametrize(
    ("graph", "num_classes", "persons", "window", "parameters"),
    [("ntu", 60, 2, 64, 1_403_144), ("ntu", 120, 2, 64, 1_418_564), ("nw-ucla", 10, 1, 52, 1_383_514)],
)
def test_number_of_parameters(graph, num_classes, persons, window, parameters):
    encoder = build(graph, num_classes, persons, window)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


def test_number_of_parameters_of_every_block(encoder):
    counts = [sum(p.numel() for p in block.parameters()) for block in encoder.blocks.values()]
    assert counts == PARAMETERS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_channels": 0}, "base_channels: must be an integer >= 1, got 0"),
        ({"base_channels": 5}, "base_channels: 5 are too few for 6 branches; take 6"),
        ({"dropout": 1.0}, r"dropout: must be a probability in \[0, 1\), got 1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)
