"""CTR-GCN: initial values, options and the amount of arithmetic, from its specification."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graph import get_skeleton, spatial_partition
from model import EncoderError, build_encoder
from model.blocks import one_image, skeleton_maps
from tests.model.draws import assert_normal

BLOCKS = [(3, 64, 1), *[(64, 64, 1)] * 3, (64, 128, 2), *[(128, 128, 1)] * 2, (128, 256, 2), *[(256, 256, 1)] * 2]
"""(C_in, C_out, stride) of l1 to l10."""


def build(graph="ntu", num_classes=60, num_persons=2, window=64, **options: object):
    torch.manual_seed(0)
    skeleton = get_skeleton(graph)
    return build_encoder(
        "ctrgcn", skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window, **options
    )


@pytest.fixture(scope="module")
def encoder():
    return build()


def test_the_graph_branch_starts_switched_off(encoder):
    adjacency = torch.from_numpy(spatial_partition(encoder.skeleton))
    for block in encoder.blocks.values():
        assert torch.equal(block.gcn.bn.weight, torch.full_like(block.gcn.bn.weight, 1e-6))
        assert block.gcn.alpha.tolist() == [0]
        assert torch.equal(block.gcn.topology, adjacency)
        assert block.gcn.topology.requires_grad


def test_topologies_of_blocks_are_separate(encoder):
    storages = {block.gcn.topology.data_ptr() for block in encoder.blocks.values()}
    assert len(storages) == len(BLOCKS)


@pytest.mark.parametrize("number", range(10))
def test_initial_weights(encoder, number):
    in_channels, out_channels, _ = BLOCKS[number]
    block = encoder.blocks[f"l{number + 1}"]
    relation_channels = 8 if in_channels == 3 else in_channels // 8
    branch = out_channels // 4
    assert_normal(block.gcn.relation.weight, math.sqrt(2 / relation_channels))
    assert_normal(block.gcn.refine_weight, math.sqrt(2 / out_channels))
    assert_normal(block.gcn.transform.weight, math.sqrt(2 / out_channels))
    assert_normal(block.tcn.entry.weight, math.sqrt(2 / branch))
    for conv in block.tcn.convs:
        assert_normal(conv.weight, math.sqrt(2 / (branch * 5)))
    for norm in (block.tcn.entry_bn, block.tcn.bn):
        assert_normal(norm.weight, 0.02, mean=1.0)
    projections = [block.gcn.down] if in_channels != out_channels else []
    if in_channels != out_channels and number > 0:
        projections.append(block.residual)
    for projection in projections:
        assert_normal(projection.conv.weight, math.sqrt(2 / out_channels))
        assert (projection.bn.weight == 1).all()


def test_first_block_has_no_residual_and_two_have_a_projection(encoder):
    kinds = [type(block.residual).__name__ for block in encoder.blocks.values()]
    assert kinds[0] == "NoneType"
    assert [number for number, kind in enumerate(kinds, 1) if kind == "TemporalConvolution"] == [5, 8]
    assert kinds.count("Identity") == 7


def test_biases_start_at_zero(encoder):
    biases = {name: value for name, value in encoder.named_parameters() if "bias" in name and "fc" not in name}
    assert len(biases) > 100
    assert all((value == 0).all() for value in biases.values())


def test_initial_classifier_and_input_normalisation(encoder):
    assert_normal(encoder.fc.linear.weight, math.sqrt(2 / 60))
    assert encoder.fc.linear.bias.abs().max() <= 1 / 16
    assert encoder.fc.linear.bias.std() > 0
    assert (encoder.data_bn.norm.weight == 1).all()


@pytest.mark.parametrize(
    ("graph", "num_classes", "persons", "window", "parameters"),
    [("ntu", 60, 2, 64, 1_446_672), ("ntu", 120, 2, 64, 1_462_092), ("nw-ucla", 10, 1, 52, 1_426_892)],
)
def test_number_of_parameters(graph, num_classes, persons, window, parameters):
    encoder = build(graph, num_classes, persons, window)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


@pytest.mark.parametrize("number", [1, 4, 5])
def test_one_image_of_all_skeletons_gives_what_their_own_maps_give(number):
    block = build("nw-ucla", 5, 1, 8, base_channels=16).blocks[f"l{number}"].double()
    torch.nn.init.normal_(block.gcn.alpha)
    torch.nn.init.normal_(block.gcn.bn.weight)
    torch.nn.init.normal_(block.gcn.refine_bias)
    maps = torch.randn(4, BLOCKS[number - 1][0] if number == 1 else 16, 20, 8, dtype=torch.float64)
    grown = copy.deepcopy(block)
    expected, given = block(maps), skeleton_maps(grown(one_image(maps)), 4)
    torch.testing.assert_close(given, expected)
    for y in (expected, given):
        y.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in grown.named_parameters()}
    for name, parameter in block.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)
    torch.testing.assert_close(grown.state_dict(), block.state_dict())


def test_under_autocast_the_logits_are_those_of_single_precision_up_to_rounding():
    encoder = build("nw-ucla", 5, 1, 8, base_channels=16)
    for block in encoder.blocks.values():
        torch.nn.init.constant_(block.gcn.bn.weight, 1)
        torch.nn.init.constant_(block.gcn.alpha, 0.5)
    x = torch.randn(4, 3, 8, 20, 1)
    expected = encoder(x)
    with torch.autocast("cpu", torch.bfloat16):
        given = encoder(x)
    assert given.dtype == torch.bfloat16
    assert (given - expected).abs().max() <= 0.1 * expected.abs().max()


def test_multiply_accumulates():
    """The published count, less the relation maps of all frames but their mean, plus the frames that a stride drops.

    The sum α R + PA, which the published count omits, is part of a product: two more relation channels.
    """
    joints, frames = 20, 52
    expected = 617_726_720
    for in_channels, out_channels, stride in BLOCKS:
        relation_channels = 8 if in_channels == 3 else in_channels // 8
        expected -= 6 * relation_channels * in_channels * (frames - 1) * joints
        expected += 3 * 2 * out_channels * joints**2
        dropped = frames - math.ceil(frames / stride)
        expected += out_channels * (out_channels // 4) * dropped * joints
        frames -= dropped
    encoder = build("nw-ucla", 10, 1, 52).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, 52, 20, 1))
    assert counter.get_total_flops() == 2 * expected


@pytest.mark.parametrize(("window", "frames"), [(64, 16), (52, 13), (17, 5), (1, 1)])
def test_two_blocks_halve_the_frames(window, frames):
    encoder = build("nw-ucla", 5, 1, window, base_channels=8).eval()
    assert encoder.feature_shape == (32, frames, 20)
    with torch.no_grad():
        assert encoder.features(torch.zeros(1, 3, window, 20, 1)).shape == (1, 1, 32, frames, 20)


def test_dropout_acts_in_training_alone():
    encoder = build("nw-ucla", 5, 1, 8, base_channels=8, dropout=0.5)
    features = torch.rand(2, 1, *encoder.feature_shape)
    assert not torch.equal(encoder.classify(features), encoder.classify(features))
    encoder.eval()
    assert torch.equal(encoder.classify(features), encoder.classify(features))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_channels": 12}, "base_channels: must be a multiple of 8, got 12; try 8"),
        ({"base_channels": 0}, "base_channels: must be an integer >= 1, got 0"),
        ({"dropout": 1.0}, "dropout: must be a probability in \\[0, 1\\), got 1.0"),
        ({"dropout": -0.1}, "dropout: must be a probability in \\[0, 1\\), got -0.1"),
        ({"dropout": "0.5"}, "dropout: must be a probability in \\[0, 1\\), got '0.5'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)
