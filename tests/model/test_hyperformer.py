"""Hyperformer: its attention from the definition, initial values, options and the amount of arithmetic."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from csre import ProjectionHead, load_published_heads
from graph import get_skeleton, hop_distances, with_tips_on_hands
from model import EncoderError, build_encoder, load_published_weights
from model.hyperformer import HypergraphAttention
from tests.model.draws import assert_normal, assert_uniform
from tests.model.parity import SKELETONS, Fixture, largest_difference

STRIDES = [1, 1, 1, 1, 2, 1, 1, 2, 1, 1]
HEADS = 9


def build(graph="nw-ucla", num_classes=5, num_persons=1, window=8, **options: object):
    torch.manual_seed(0)
    skeleton = get_skeleton(graph)
    return build_encoder(
        "hyperformer", skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window, **options
    )


def clips(encoder, num_clips):
    shape = (num_clips, 3, encoder.window, encoder.skeleton.num_joints, encoder.num_persons)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def encoder():
    """Of full size, with its initial weights; not to be changed."""
    return build("ntu", 60, 2, 64)


def attention_by_loops(layer, x, hops, groups):
    """The published formulas of one unit, literally, for x (n, C_in, V, T) and 4 channels a head."""
    num_skeletons, _, joints, frames = x.shape
    channels, size = 4 * HEADS, 4
    query_weight, key_weight, value_weight = layer.to_qkv.weight.split(channels)
    rpe = layer.rpe.view(-1, HEADS, size)
    output = torch.zeros(num_skeletons, channels, joints, frames, dtype=x.dtype)
    for n in range(num_skeletons):
        for t in range(frames):
            raw = x[n, :, :, t].T  # (V, C_in)
            normed = functional.layer_norm(raw, raw.shape[1:], layer.norm.weight, layer.norm.bias)
            members = [[u for u in range(joints) if groups[u] == groups[v]] for v in range(joints)]
            group = torch.stack([layer.to_groups.weight @ raw[members[v]].mean(dim=0) for v in range(joints)])
            mixed = torch.zeros(joints, channels, dtype=x.dtype)
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                q, k, v = (normed @ weight[part].T for weight in (query_weight, key_weight, value_weight))
                e = group[:, part]
                similarity = torch.empty(joints, joints, dtype=x.dtype)
                for i in range(joints):
                    for j in range(joints):
                        a, b = q[i] @ k[j], q[i] @ rpe[hops[i, j], head]
                        similarity[i, j] = (a + b + q[i] @ e[j] + layer.w1[head] @ e[j]) / math.sqrt(size)
                mixed[:, part] = (layer.alpha * similarity.softmax(dim=1) + layer.outer[head]) @ v
            projected = functional.conv1d(mixed.T, layer.project.weight[..., 0], layer.project.bias, groups=6)
            output[n, :, :, t] = layer.skip(x[n : n + 1, :, :, t : t + 1])[0, :, :, 0] + projected
    return output


@pytest.mark.parametrize("in_channels", [3, 36])
def test_attention_from_its_definition(in_channels):
    skeleton = get_skeleton("nw-ucla")
    hops = torch.from_numpy(hop_distances(skeleton))
    groups = torch.tensor([2, 0, 0, 1] * 5)
    torch.manual_seed(0)
    layer = HypergraphAttention(in_channels, 36, hops, groups, drop_path=0.0).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
        x = torch.randn(2, in_channels, 20, 2, dtype=torch.float64)
        torch.testing.assert_close(layer(x), attention_by_loops(layer, x, hops, groups))


def test_the_graph_is_the_one_with_hand_tips_on_the_hands(encoder):
    expected = torch.from_numpy(hop_distances(with_tips_on_hands(get_skeleton("ntu"))))
    for block in encoder.blocks.values():
        assert torch.equal(block.attention.hops, expected)
        assert len(block.attention.rpe) == 12


def test_the_attention_starts_as_a_map_of_each_joint_by_itself(encoder):
    for block in encoder.blocks.values():
        layer = block.attention
        for parameter in (layer.rpe, layer.w1, layer.alpha):
            assert not parameter.any()
        assert torch.equal(layer.outer, torch.eye(25).expand(HEADS, 25, 25))
    layer = encoder.blocks["l2"].attention
    x = torch.randn(1, 216, 25, 3)
    changed = x.clone()
    changed[:, :, 7] += 1
    with torch.no_grad():
        difference = (layer(changed) - layer(x)).abs().amax(dim=(0, 1, 3))
    assert difference.argmax() == 7
    assert difference[torch.arange(25) != 7].max() == 0


def test_what_forms_the_attention_has_no_gradient_until_alpha_moves():
    encoder = build(channels=36)
    functional.cross_entropy(encoder(clips(encoder, 4)), torch.arange(4)).backward()
    for block in encoder.blocks.values():
        layer = block.attention
        key_and_query = layer.to_qkv.weight.grad[: 2 * 36]
        assert not any(
            grad.any() for grad in (key_and_query, layer.rpe.grad, layer.w1.grad, layer.to_groups.weight.grad)
        )
        assert all(grad.any() for grad in (layer.to_qkv.weight.grad[2 * 36 :], layer.alpha.grad, layer.outer.grad))


@pytest.mark.parametrize("number", range(1, 11))
def test_initial_weights(encoder, number):
    block = encoder.blocks[f"l{number}"]
    in_channels = 3 if number == 1 else 216
    layer = block.attention
    for linear in (layer.to_qkv, layer.to_groups):
        assert_uniform(linear.weight, in_channels**-0.5)
        assert linear.bias is None
    for parameter in (layer.project.weight, layer.project.bias):
        assert parameter.abs().max() <= 36**-0.5
    assert_uniform(layer.project.weight, 36**-0.5)
    assert layer.project.bias.any()
    if number == 1:
        assert_uniform(layer.skip.weight, 3**-0.5)
        assert layer.skip.bias is None
    assert (layer.norm.weight == 1).all()
    assert_normal(block.tcn.entry.weight, math.sqrt(2 / 54))
    for conv in block.tcn.convs:
        assert_normal(conv.weight, math.sqrt(2 / (54 * 5)))
    for norm in (block.tcn.entry_bn, block.tcn.bn):
        assert_normal(norm.weight, 0.02, mean=1.0)
    if number in (1, 5, 8):
        assert_normal(block.residual.conv.weight, math.sqrt(2 / 216))
        assert (block.residual.bn.weight == 1).all()
    else:
        assert isinstance(block.residual, torch.nn.Identity)


def test_initial_classifier_and_input_normalisation(encoder):
    assert_normal(encoder.fc.linear.weight, math.sqrt(2 / 60))
    assert encoder.fc.linear.bias.any()
    assert (encoder.data_bn.norm.weight == 1).all()


@pytest.mark.parametrize(
    ("graph", "num_classes", "persons", "window", "shape"),
    [("ntu", 60, 2, 64, (216, 16, 25)), ("nw-ucla", 10, 1, 52, (216, 13, 20)), ("nw-ucla", 10, 1, 1, (216, 1, 20))],
)
def test_two_blocks_halve_the_frames(graph, num_classes, persons, window, shape):
    encoder = build(graph, num_classes, persons, window)
    assert encoder.feature_shape == shape


@pytest.mark.parametrize(
    ("graph", "num_classes", "persons", "window", "groups", "published"),
    [("ntu", 60, 2, 64, 5, 5_273_260_320), ("nw-ucla", 10, 1, 52, 3, 1_665_065_664)],
)
def test_multiply_accumulates(graph, num_classes, persons, window, groups, published):
    """The published count, less the query's second product, with w1 · e per group and not per joint; plus the spreading
    of e and w1 · e, and the frames that a stride drops."""
    encoder = build(graph, num_classes, persons, window).eval()
    joints, channels, frames = encoder.skeleton.num_joints, 216, window
    expected = published
    for stride in STRIDES:
        saved = joints * joints * channels + (joints - groups) * channels
        spread = joints * groups * (channels + HEADS)
        dropped = frames - math.ceil(frames / stride)
        expected += persons * (frames * (spread - saved) + dropped * joints * channels * (channels // 4))
        frames -= dropped
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, 3, window, joints, persons))
    assert counter.get_total_flops() == 2 * expected


@pytest.mark.parametrize("graph", SKELETONS)
def test_features_for_the_projection_heads(shared, graph):
    """The released model's own heads on this map give its own contrasted features."""
    fixture = Fixture(shared / "parity" / "encoders" / f"hyperformer_{graph}.npz", "hyperformer", graph)
    encoder = fixture.build().eval()
    load_published_weights(encoder, fixture.published_state())
    heads = {branch: ProjectionHead(branch, encoder.feature_shape) for branch in ("spatial", "temporal")}
    keys = json.loads(str(fixture.arrays["head_keys"]))
    load_published_heads(heads, {name: fixture.by_rule(name, shape) for name, shape, _ in keys})
    with torch.no_grad():
        features = encoder.features(fixture.clips())
        for branch, head in heads.items():
            assert largest_difference(head(features), fixture.expected(f"{branch}_feature")) <= 2e-6


def test_partitions_change_the_groups_and_nothing_else():
    encoders = {partition: build(channels=36, partition=partition) for partition in ("published", "published_bone")}
    encoders["parts"] = build(channels=36, partition="parts")
    one, other, parts = encoders.values()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    sizes = [encoder.blocks["l3"].attention.membership.sum(dim=0).tolist() for encoder in encoders.values()]
    assert sizes == [[4, 8, 8], [8, 6, 6], [1, 3, 4, 4, 4, 4]]
    x = clips(one, 2)
    with torch.no_grad():
        for encoder in encoders.values():
            for block in encoder.blocks.values():
                block.attention.alpha.fill_(1.0)
                block.attention.w1.fill_(1.0)
            encoder.eval()
        assert largest_difference(other(x), one(x)) > 1e-4
        assert largest_difference(parts(x), one(x)) > 1e-4


def test_drop_path_grows_with_depth_and_acts_in_training_alone():
    encoder = build(channels=36, drop_path=0.9)
    rates = [block.attention.drop_path.rate for block in encoder.blocks.values()]
    assert rates == pytest.approx([0.1 * index for index in range(10)])
    layer = encoder.blocks["l10"].attention
    x = torch.randn(40, 36, 20, 2)
    with torch.no_grad():
        unchanged = (layer(x) == x).flatten(1).all(dim=1)
        assert 20 < unchanged.sum() < 40
        assert not (layer.eval()(x) == x).flatten(1).all(dim=1).any()


def test_dropout_acts_in_training_alone():
    encoder = build(channels=36, dropout=0.5)
    features = torch.rand(2, 1, *encoder.feature_shape)
    assert not torch.equal(encoder.classify(features), encoder.classify(features))
    encoder.eval()
    assert torch.equal(encoder.classify(features), encoder.classify(features))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 100}, "channels: must be a multiple of 36, got 100; try 72"),
        ({"channels": 0}, "channels: must be an integer >= 1, got 0"),
        ({"drop_path": 1.0}, "drop_path: must be a probability in \\[0, 1\\), got 1.0"),
        ({"dropout": -0.1}, "dropout: must be a probability in \\[0, 1\\), got -0.1"),
        ({"partition": "publsihed"}, "partition: 'publsihed' is unknown .did you mean 'published'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)


def test_a_skeleton_without_parts_is_refused():
    skeleton = replace(get_skeleton("nw-ucla"), joint_names=tuple(map(str, range(20))), parts={})
    with pytest.raises(EncoderError, match=r"parts: '0', '1', .* belong to no part"):
        build_encoder("hyperformer", skeleton=skeleton, num_classes=5)
