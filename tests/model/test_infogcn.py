"""InfoGCN: its graph convolution from the definition, its own losses, initial values, options and arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from graph import get_skeleton, joint_operator
from model import EncoderError, build_encoder, load_published_weights
from model.infogcn import GatedGraphConvolution
from tests.model.draws import assert_normal, assert_uniform
from tests.model.parity import SKELETONS, Fixture, largest_difference

BLOCKS = [*[(64, 64, 1)] * 3, (64, 128, 2), *[(128, 128, 1)] * 2, (128, 256, 2), *[(256, 256, 1)] * 2]
"""(C_in, C_out, stride) of l1 to l9."""


def build(graph="nw-ucla", num_classes=5, num_persons=1, window=8, **options: object):
    torch.manual_seed(0)
    skeleton = get_skeleton(graph)
    return build_encoder(
        "infogcn", skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window, **options
    )


def clips(encoder, num_clips):
    shape = (num_clips, 3, encoder.window, encoder.skeleton.num_joints, encoder.num_persons)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def encoder():
    """Of full size, with its initial weights; not to be changed."""
    return build("ntu", 60, 2, 64)


def convolution_by_loops(layer, x):
    """The published formulas of one graph convolution before its normalisation, literally; x (n, C_in, V, T)."""
    num_skeletons, in_channels, joints, frames = x.shape
    size = in_channels // 8
    out_channels = layer.transform.out_features
    mixed = torch.zeros(num_skeletons, out_channels, joints, frames, dtype=x.dtype)
    for n in range(num_skeletons):
        for t in range(frames):
            rows = x[n, :, :, t].T  # (V, C_in)
            pairs = layer.to_qk(functional.layer_norm(rows, rows.shape[1:], layer.norm.weight, layer.norm.bias))
            for head in range(3):
                query = pairs[:, head * size : (head + 1) * size]
                key = pairs[:, (3 + head) * size : (4 + head) * size]
                gate = layer.topology[head] * (query @ key.T / math.sqrt(size)).softmax(dim=1)
                weight = layer.transform.weight[:, head * in_channels : (head + 1) * in_channels]
                mixed[n, :, :, t] += weight @ (gate @ rows).T + layer.transform_bias[head][:, None]
    return mixed


@pytest.mark.parametrize("out_channels", [16, 32])
def test_graph_convolution_from_its_definition(out_channels):
    torch.manual_seed(0)
    layer = GatedGraphConvolution(16, out_channels, num_joints=5).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
        x = torch.randn(2, 16, 5, 3, dtype=torch.float64)
        expected = functional.relu(layer.bn(convolution_by_loops(layer, x)) + layer.down(x))
        torch.testing.assert_close(layer(x), expected)


def test_the_graph_branch_starts_switched_off(encoder):
    for block in encoder.blocks.values():
        assert torch.equal(block.gcn.bn.weight, torch.full_like(block.gcn.bn.weight, 1e-6))
        assert torch.equal(block.gcn.topology, torch.eye(25).expand(3, 25, 25))


@pytest.mark.parametrize("number", range(1, 10))
def test_initial_weights(encoder, number):
    in_channels, out_channels, _ = BLOCKS[number - 1]
    block = encoder.blocks[f"l{number}"]
    assert_normal(block.gcn.to_qk.weight, 1.0)
    assert 0 < block.gcn.to_qk.bias.abs().max() <= in_channels**-0.5
    assert_normal(block.gcn.transform.weight, math.sqrt(2 / (out_channels * in_channels * 3)))
    assert not block.gcn.transform_bias.any()
    assert_uniform(block.tcn.entry.weight, out_channels**-0.5)
    assert block.tcn.entry.bias.any()
    for conv in block.tcn.convs:
        assert_uniform(conv.weight, (out_channels // 4 * 5) ** -0.5)
        assert conv.bias.any()
    for norm in (block.tcn.entry_bn, block.tcn.bn):
        assert (norm.weight == 1).all()
        assert not norm.bias.any()
    if in_channels != out_channels:
        for projection in (block.gcn.down, block.residual):
            assert_normal(projection.conv.weight, math.sqrt(2 / out_channels))
            assert not projection.conv.bias.any()
            assert (projection.bn.weight == 1).all()


def test_initial_embedding(encoder):
    assert_normal(encoder.embedding.position, 1.0)
    for parameter in encoder.embedding.coordinates.parameters():
        assert parameter.abs().max() <= 3**-0.5
        assert parameter.any()
    assert (encoder.embedding.norm.norm.weight == 1).all()


@pytest.mark.parametrize(
    ("graph", "num_classes", "persons", "window", "parameters", "shape"),
    [
        ("ntu", 60, 2, 64, 1_556_807, (256, 16, 25)),
        ("ntu", 120, 2, 64, 1_572_227, (256, 16, 25)),
        ("nw-ucla", 10, 1, 52, 1_533_722, (256, 13, 20)),
    ],
)
def test_sizes(graph, num_classes, persons, window, parameters, shape):
    encoder = build(graph, num_classes, persons, window)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert encoder.feature_shape == shape


@pytest.mark.parametrize(
    ("graph", "num_classes", "persons", "window", "published"),
    [("ntu", 60, 2, 64, 1_783_517_568), ("nw-ucla", 10, 1, 52, 569_649_088)],
)
def test_multiply_accumulates(graph, num_classes, persons, window, published):
    """The published count, less the log variance, which evaluation needs not, plus the frames that a stride drops."""
    encoder = build(graph, num_classes, persons, window).eval()
    joints, frames, expected = encoder.skeleton.num_joints, window, published - 256 * 256
    for _, out_channels, stride in BLOCKS:
        dropped = frames - math.ceil(frames / stride)
        expected += persons * out_channels * (out_channels // 4) * dropped * joints
        frames -= dropped
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, window, joints, persons))
    assert counter.get_total_flops() == 2 * expected


@pytest.mark.parametrize("graph", SKELETONS)
def test_published_latents(shared, graph):
    fixture = Fixture(shared / "parity" / "encoders" / f"infogcn_{graph}.npz", "infogcn", graph)
    encoder = fixture.build().eval()
    load_published_weights(encoder, fixture.published_state())
    head = encoder.head
    with torch.no_grad():
        hidden = head.hidden(encoder.features(fixture.clips()).mean(dim=(1, 3, 4))).relu()
        assert largest_difference(head.mean(hidden), fixture.expected("extra/z")) <= 1e-5
        assert largest_difference(head.log_variance(hidden), fixture.expected("extra/logvar")) <= 1e-5
        encoder.train()(fixture.clips())
        assert largest_difference(head.drawn, fixture.expected("extra/z_train")) <= 1e-5


@pytest.mark.parametrize("graph", ["ntu", "nw-ucla"])
def test_order_1_of_joints_is_order_8_of_bones(graph):
    bones, plain = build(graph, base_channels=8, order=1), build(graph, base_channels=8, order=8)
    x = clips(bones, 2)
    operator = torch.from_numpy(joint_operator(bones.skeleton, 1))
    with torch.no_grad():
        bones.eval(), plain.eval()
        torch.testing.assert_close(bones(x), plain(torch.einsum("uv,nctvm->nctum", operator, x)))
        assert largest_difference(bones(x), plain(x)) > 1e-3


def test_the_sane_direction_is_an_option():
    published, sane = build(base_channels=8), build(base_channels=8, direction="to_ancestor")
    assert torch.equal(sane.operator, published.operator.T)
    assert sane.operator[3].nonzero().flatten().tolist() == [2, 3]  # head minus shoulder centre


def test_the_operator_and_the_prior_are_in_no_state_dict():
    assert not {"operator", "prior"} & build(base_channels=8).state_dict().keys()


def test_own_losses_are_those_of_the_latest_draw():
    encoder = build(base_channels=8, conditional_weight=0.5, marginal_weight=0.25).train()
    labels = torch.tensor([4, 1, 4])
    encoder(clips(encoder, 3))
    z = encoder.head.drawn
    losses = encoder.own_losses(labels)
    means = torch.stack([z[1], (z[0] + z[2]) / 2])
    torch.testing.assert_close(
        losses["conditional_latent"], 0.5 * (means - encoder.prior[[1, 4]]).square().mean(), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(losses["marginal_latent"], 0.25 * z.mean(dim=0).square().sum().sqrt())
    sum(losses.values()).backward()
    for layer in (encoder.head.mean, encoder.head.log_variance, encoder.embedding.norm.norm):
        assert layer.weight.grad.any()
    assert encoder.head.decoder.weight.grad is None


def test_published_weights_of_the_losses():
    encoder = build(base_channels=8)
    assert (encoder.conditional_weight, encoder.marginal_weight, encoder.label_smoothing) == (0.1, 1e-4, 0.1)
    torch.testing.assert_close(encoder.prior.norm(dim=1), torch.full((5,), 3.0))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"conditional_latent", "marginal_latent"}),
        ({"conditional_weight": 0}, {"marginal_latent"}),
        ({"marginal_weight": 0}, {"conditional_latent"}),
        ({"conditional_weight": 0, "marginal_weight": 0}, set()),
    ],
)
def test_own_losses_can_be_switched_off(options, names):
    encoder = build(base_channels=8, **options)
    encoder(clips(encoder, 2))
    assert encoder.own_losses(torch.tensor([0, 1])).keys() == names


def test_own_losses_under_autocast_are_single_precision():
    encoder = build(base_channels=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(clips(encoder, 2))
        losses = encoder.own_losses(torch.tensor([0, 1]))
    for loss in losses.values():
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)


def test_own_losses_without_a_training_step_are_refused():
    encoder = build(base_channels=8)
    message = "own_losses belongs after a forward pass in training mode"
    with pytest.raises(EncoderError, match=message):
        encoder.own_losses(torch.tensor([0]))
    encoder(clips(encoder, 2))
    encoder.eval()(clips(encoder, 1))
    with pytest.raises(EncoderError, match=message):
        encoder.own_losses(torch.tensor([0]))


def test_training_draws_and_features_do_not():
    encoder = build(base_channels=8)
    x = clips(encoder, 2)
    assert not torch.equal(encoder(x), encoder(x))
    assert torch.equal(encoder.features(x), encoder.features(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_channels": 12}, "base_channels: must be a multiple of 8, got 12; try 8"),
        ({"order": 0}, "order: must be an integer >= 1, got 0"),
        ({"direction": "sane"}, "direction: 'sane' is unknown"),
        ({"sampling": "no"}, "sampling: must be true or false, got 'no'"),
        ({"noise_ratio": -0.5}, "noise_ratio: must be a number >= 0, got -0.5"),
        ({"conditional_weight": "1"}, "conditional_weight: must be a number >= 0, got '1'"),
        ({"marginal_weight": math.inf}, "marginal_weight: must be a number >= 0, got inf"),
        ({"prior_gain": math.nan}, "prior_gain: must be a number >= 0, got nan"),
        ({"label_smoothing": 1.0}, "label_smoothing: must be a probability in \\[0, 1\\), got 1.0"),
        ({"dropout": -0.1}, "dropout: must be a probability in \\[0, 1\\), got -0.1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)
