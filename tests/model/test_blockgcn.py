"""BlockGCN: initial values, options, the choice of topology and the amount of arithmetic, from its specification."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from graph import get_skeleton, hop_distances, with_tips_on_hands
from model import EncoderError, build_encoder, load_published_weights
from model.blockgcn import BlockGraphConvolution
from tests.model.draws import assert_normal, assert_uniform
from tests.model.parity import LABELS, SKELETONS, Fixture, largest_difference, relative_l2

BLOCKS = [*[(128, 128, 1)] * 4, (128, 256, 2), *[(256, 256, 1)] * 2, (256, 256, 2), *[(256, 256, 1)] * 2]
"""(C_in, C_out, stride) of l1 to l10."""


def build(graph="ntu", num_classes=60, num_persons=2, window=64, **options: object):
    torch.manual_seed(0)
    skeleton = get_skeleton(graph)
    return build_encoder(
        "blockgcn", skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window, **options
    )


def small(num_persons=2, **options: object):
    return build("nw-ucla", 5, num_persons, 8, base_channels=16, **options)


def clips(encoder, num_clips, seed=1):
    shape = (num_clips, 3, encoder.window, encoder.skeleton.num_joints, encoder.num_persons)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def encoder():
    return build()


def fixture_of(shared, graph):
    return Fixture(shared / "parity" / "encoders" / f"blockgcn_{graph}.npz", "blockgcn", graph)


@pytest.fixture(scope="module", params=list(SKELETONS))
def fixture(request, shared):
    return fixture_of(shared, request.param)


def published(fixture, **options: object):
    _, _, window, _, persons = fixture.arrays["input_shape"].tolist()
    classes = fixture.arrays["logits"].shape[1]
    encoder = build(SKELETONS[fixture.graph], classes, persons, window, **options)
    load_published_weights(encoder, fixture.published_state())
    return encoder.eval()


@pytest.mark.parametrize("number", range(10))
def test_initial_blocks(encoder, number):
    in_channels, out_channels, stride = BLOCKS[number]
    block = encoder.blocks[f"l{number + 1}"]
    assert torch.equal(block.gcn.free, torch.eye(25).expand(3, 8, 25, 25))
    assert torch.equal(block.gcn.by_hops, torch.zeros(3, 8, 12))
    assert_normal(block.gcn.weight, math.sqrt(2 / out_channels))
    assert (block.gcn.bn.weight == 1).all()
    assert_normal(block.tcn.entry.weight, math.sqrt(2 / (out_channels // 4)))
    for conv in block.tcn.convs:
        assert_normal(conv.weight, math.sqrt(2 / (out_channels // 4 * 5)))
    for norm in (block.tcn.entry_bn, block.tcn.bn):
        assert_normal(norm.weight, 0.02, mean=1.0)
    paths = {block.gcn.down: in_channels != out_channels, block.residual: (in_channels, stride) != (out_channels, 1)}
    for path, has_weights in paths.items():
        assert isinstance(path, nn.Identity) != has_weights
        if has_weights:
            assert_normal(path.conv.weight, math.sqrt(2 / out_channels))
            assert (path.bn.weight == 1).all()
    biases = [value for name, value in block.named_parameters() if name.endswith("bias")]
    assert len(biases) >= 6
    assert all((bias == 0).all() for bias in biases)


def test_initial_input_terms_and_classifier(encoder):
    assert_normal(encoder.embedding.position, 1.0)
    assert_uniform(encoder.embedding.coordinates.weight, 1 / math.sqrt(3))
    assert_uniform(encoder.terms.linear.weight, 1 / 8)
    assert_uniform(encoder.terms.linear.bias, 1 / 8)
    for norm in (encoder.embedding.norm.norm, encoder.terms.bn):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()
    assert_normal(encoder.fc.linear.weight, math.sqrt(2 / 60))
    assert_uniform(encoder.fc.linear.bias, 1 / 16)


def test_distances_have_the_hand_tips_on_the_hands(encoder):
    hops = hop_distances(with_tips_on_hands(encoder.skeleton))
    assert hops.max() == 11
    for block in encoder.blocks.values():
        assert block.gcn.hops.tolist() == hops.tolist()


def test_graph_convolution_one_group_at_a_time():
    """Evaluation mode with neutral running statistics: the normalisation is then a division by sqrt(1 + eps)."""
    torch.manual_seed(0)
    hops = torch.tensor([[0, 1, 2], [1, 0, 1], [2, 1, 0]])
    layer = BlockGraphConvolution(16, 16, hops).eval()
    with torch.no_grad():
        for parameter in (layer.free, layer.by_hops, layer.bias):
            parameter.normal_()
        layer.free[1, 2, :, 0] = 0
    x = torch.randn(2, 16, 3, 5)
    expected = torch.zeros(2, 16, 3, 5)
    for group in range(8):
        channels = slice(2 * group, 2 * group + 2)
        for subset in range(3):
            mixed = torch.zeros(2, 2, 3, 5)
            for w in range(3):
                free = layer.free[subset, group, :, w]
                by_hops = torch.stack([layer.by_hops[subset, group, hops[v, w]] for v in range(3)])
                weights = free / (free.norm() + 1e-4) + by_hops / (by_hops.norm() + 1e-4)
                for v in range(3):
                    mixed[:, :, w] += weights[v] * x[:, channels, v]
            kernel = layer.weight[channels, subset::3, 0, 0]
            mixed = torch.einsum("oc,ncvt->novt", kernel, mixed) + layer.bias[subset, channels].view(2, 1, 1)
            expected[:, channels] += mixed
    torch.testing.assert_close(layer(x), functional.relu(expected / math.sqrt(1 + 1e-5) + x))


def test_first_gradient_of_the_distances_is_finite_and_large():
    """At zero the column's norm has derivative zero, so the gradient is that of the columns over 1e-4."""
    torch.manual_seed(0)
    layer = BlockGraphConvolution(16, 16, torch.from_numpy(hop_distances(get_skeleton("nw-ucla"))))
    layer(torch.randn(2, 16, 20, 5)).square().sum().backward()
    assert layer.by_hops.grad is not None
    assert torch.isfinite(layer.by_hops.grad).all()
    assert layer.by_hops.grad.abs().median() > 100 * layer.free.grad.abs().median()


def test_parity_with_each_clip_given_its_own_topology(shared):
    """The second set of results for two persons: rows of the own clip, scale of the batch."""
    fixture = fixture_of(shared, "ntu")
    encoder = published(fixture, topology="matched")
    x, joints = fixture.clips(), fixture.joints()
    with torch.no_grad():
        assert largest_difference(encoder(x, joints), fixture.expected("logits_matched")) <= 1e-6
        trained = copy.deepcopy(encoder).train()
        assert largest_difference(trained(x, joints), fixture.expected("train_logits_matched")) <= 1e-4

    double = encoder.double()
    x, joints = x.double().requires_grad_(), joints.double()
    assert largest_difference(double(x, joints).detach(), fixture.expected("logits_matched_f64")) <= 1e-10
    logits = double.train()(x, joints)
    functional.cross_entropy(logits, LABELS).backward()
    assert largest_difference(logits.detach(), fixture.expected("train_logits_matched_f64")) <= 1e-10
    assert relative_l2(x.grad, fixture.expected("input_grad_matched_f64")) <= 1e-6


@pytest.mark.parametrize(("ending", "bound"), [("", 1e-4), ("_f64", 1e-10)])
def test_parity_of_running_statistics(fixture, ending, bound):
    """Evaluation after one training step whose statistics replace the running ones."""
    encoder = published(fixture)
    x, joints = fixture.clips(), fixture.joints()
    if ending:
        encoder, x, joints = encoder.double(), x.double(), joints.double()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        encoder.train()(x, joints)
        logits = encoder.eval()(x, joints)
    assert largest_difference(logits, fixture.expected(f"logits_calibrated{ending}")) <= bound


def test_published_weights_bring_the_published_topology(fixture):
    x, joints = fixture.clips(), fixture.joints()
    by_default = published(fixture)
    with torch.no_grad():
        logits = by_default(x, joints)
        assert torch.equal(published(fixture, topology="published")(x, joints), logits)
        own = published(fixture, topology="own")(x, joints)
        again = build(SKELETONS[fixture.graph], logits.shape[1], x.shape[-1], x.shape[2]).eval()
        again.load_state_dict(by_default.state_dict())
        assert torch.equal(again(x, joints), logits)
    assert largest_difference(own, logits) > 1e-3


def settle(encoder):
    """Running statistics of a few batches, and evaluation mode."""
    with torch.no_grad():
        for seed in range(3):
            encoder(clips(encoder, 6, seed))
    return encoder.eval()


@pytest.mark.parametrize(
    ("topology", "depends"), [(None, False), ("own", False), ("matched", True), ("published", True)]
)
def test_a_prediction_depends_on_the_rest_of_the_batch_only_by_choice(topology, depends):
    encoder = settle(small(topology=topology))
    x, other = clips(encoder, 2), 3 * clips(encoder, 2, seed=9)
    with torch.no_grad():
        beside_some = encoder(x)[:1]
        beside_others = encoder(torch.cat([x[:1], other]))[:1]
        alone = encoder(x[:1])
    if depends:
        assert largest_difference(beside_others, beside_some) > 1e-3
    else:
        assert largest_difference(beside_others, beside_some) <= 1e-5
        assert largest_difference(alone, beside_some) <= 1e-5


def test_the_topology_is_read_from_the_joints_and_nothing_else_is():
    encoder = settle(small())
    x, joints = clips(encoder, 2), clips(encoder, 2, seed=5)
    with torch.no_grad():
        assert torch.equal(encoder(x), encoder(x, joints=x))
        assert largest_difference(encoder(x, joints=joints), encoder(x)) > 1e-3
        torch.testing.assert_close(encoder(x, joints=2 * joints), encoder(x, joints=joints))
        encoder.terms.bn.weight.zero_()
        encoder.terms.bn.bias.zero_()
        assert torch.equal(encoder(x, joints=joints), encoder(x))


def test_a_single_row_cannot_be_trained_on():
    encoder = small(num_persons=1).train()
    with pytest.raises(EncoderError, match=r"one clip of one person cannot be trained on.* drop such a last one"):
        encoder(clips(encoder, 1))
    assert encoder(clips(encoder, 2)).shape == (2, 5)
    assert encoder.eval()(clips(encoder, 1)).shape == (1, 5)
    of_two_persons = small(num_persons=2).train()
    assert of_two_persons(clips(of_two_persons, 1)).shape == (1, 5)


@pytest.mark.parametrize(
    ("graph", "num_classes", "persons", "window", "parameters"),
    [("ntu", 60, 2, 64, 1_372_780), ("ntu", 120, 2, 64, 1_388_200), ("nw-ucla", 10, 1, 52, 1_297_370)],
)
def test_number_of_parameters(graph, num_classes, persons, window, parameters):
    encoder = build(graph, num_classes, persons, window)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    branch = [*encoder.topology.parameters(), *encoder.terms.parameters()]
    assert sum(parameter.numel() for parameter in branch) == 128_896


@pytest.mark.parametrize(
    ("graph", "persons", "window", "published"), [("ntu", 2, 64, 1_988_459_520), ("nw-ucla", 1, 52, 628_318_720)]
)
def test_multiply_accumulates(graph, persons, window, published):
    """The published count, plus the frames that the stride of the last temporal branch drops."""
    classes = {"ntu": 60, "nw-ucla": 10}[graph]
    encoder = build(graph, classes, persons, window).eval()
    joints, frames, expected = encoder.skeleton.num_joints, window, published
    for _, out_channels, stride in BLOCKS:
        dropped = frames - math.ceil(frames / stride)
        expected += persons * out_channels * (out_channels // 4) * dropped * joints
        frames -= dropped
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, window, joints, persons))
    assert counter.get_total_flops() == 2 * expected


@pytest.mark.parametrize(("window", "frames"), [(64, 16), (52, 13), (17, 5), (1, 1)])
def test_two_blocks_halve_the_frames(window, frames):
    encoder = build("nw-ucla", 5, 1, window, base_channels=8).eval()
    assert encoder.feature_shape == (16, frames, 20)
    with torch.no_grad():
        assert encoder.features(torch.zeros(1, 3, window, 20, 1)).shape == (1, 1, 16, frames, 20)


def test_full_size_features():
    assert build("nw-ucla", 10, 1, 52).feature_shape == (256, 13, 20)


def test_dropout_acts_in_training_alone():
    encoder = small(dropout=0.5)
    features = torch.rand(2, 2, *encoder.feature_shape)
    assert not torch.equal(encoder.classify(features), encoder.classify(features))
    encoder.eval()
    assert torch.equal(encoder.classify(features), encoder.classify(features))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_channels": 12}, "base_channels: must be a multiple of 8, got 12; try 8"),
        ({"base_channels": 0}, "base_channels: must be an integer >= 1, got 0"),
        ({"topology": "publshed"}, r"topology: 'publshed' is unknown \(did you mean 'published'\?\); known are own"),
        ({"topology": True}, "topology: True is unknown"),
        ({"dropout": 1.0}, "dropout: must be a probability in \\[0, 1\\), got 1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)
