"""HCN: motion, persons, feature maps, initial values, sizes and options, from its specification."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from graph import get_skeleton
from model import EncoderError, build_encoder, load_published_weights
from model.hcn import motion_of
from tests.model.draws import assert_uniform
from tests.model.parity import SKELETONS, Fixture

SMALL = {"graph": "nw-ucla", "num_classes": 5, "num_persons": 1, "window": 16}


def build(graph="ntu", num_classes=60, num_persons=2, window=32, seed=0, **options: object):
    torch.manual_seed(seed)
    skeleton = get_skeleton(graph)
    return build_encoder(
        "hcn", skeleton=skeleton, num_classes=num_classes, num_persons=num_persons, window=window, **options
    )


def clips(encoder, num_clips=2):
    shape = (num_clips, 3, encoder.window, encoder.skeleton.num_joints, encoder.num_persons)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=SKELETONS)
def fixture(request, shared):
    return Fixture(shared / "parity" / "encoders" / f"hcn_{request.param}.npz", "hcn", request.param)


@pytest.mark.parametrize("frames", [16, 32, 52])
def test_motion_is_interpolated_between_the_differences(frames):
    x = torch.randn(2, 3, 4, frames, dtype=torch.float64)
    differences = [x[..., t + 1] - x[..., t] for t in range(frames - 1)]
    expected = []
    for t in range(frames):
        place = max(0.0, (t + 0.5) * (frames - 1) / frames - 0.5)
        before = math.floor(place)
        after = min(before + 1, frames - 2)
        share = place - before
        expected.append((1 - share) * differences[before] + share * differences[after])
    torch.testing.assert_close(motion_of(x), torch.stack(expected, dim=-1), rtol=0, atol=1e-12)


def test_published_motion(fixture):
    motion = motion_of(fixture.clips().permute(0, 4, 1, 3, 2).flatten(0, 1))
    expected = fixture.expected("extra/motion").permute(0, 4, 1, 3, 2).flatten(0, 1)
    torch.testing.assert_close(motion, expected, rtol=0, atol=2e-5)


def test_published_map_of_each_person(fixture):
    """One person at a time through the weights of two: the published maps before the maximum."""
    graph, num_classes = SKELETONS[fixture.graph], fixture.arrays["logits"].shape[1]
    x = fixture.clips()
    alone = build(graph, num_classes, num_persons=1, window=x.shape[2])
    load_published_weights(alone, fixture.published_state())
    for person in range(x.shape[-1]):
        with torch.no_grad():
            units = alone.eval().features(x[..., person : person + 1])
        pooled = functional.max_pool2d(units.squeeze(1), 2)
        expected = fixture.expected("extra/person_features")[:, person]
        torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("feature_map", ["units", "joints"])
def test_persons_are_merged_by_maximum_in_any_number_and_order(feature_map):
    three = build(num_persons=3, window=16, feature_map=feature_map).eval()
    alone = build(num_persons=1, window=16).eval()
    x = clips(three)
    with torch.no_grad():
        units = torch.stack([alone.features(x[..., [person]]) for person in range(3)]).amax(dim=0)
        torch.testing.assert_close(three(x), alone.classify(units))
        torch.testing.assert_close(three(x[..., [2, 0, 1]]), three(x))


def test_the_contrast_reaches_every_convolution():
    encoder = build()
    encoder.features(clips(encoder)).square().sum().backward()
    reached = {name: p.numel() for name, p in encoder.named_parameters() if p.grad is not None and p.grad.any()}
    assert sum(reached.values()) == 507_072
    assert not any(name.startswith("fc.") for name in reached)


def test_the_map_of_joints_keeps_them_apart_and_reaches_two_layers():
    encoder = build(feature_map="joints")
    assert encoder.feature_shape == (64, 32, 25)
    x = clips(encoder)
    features = encoder.features(x)
    assert features.shape == (2, 2, 64, 32, 25)
    moved = x.clone()
    moved[1, :, :, 7, 0] += 1
    same = torch.isclose(encoder.features(moved), features, rtol=1e-4, atol=1e-5)
    different = ~same.all(dim=2).all(dim=2)
    assert different.nonzero().tolist() == [[1, 0, 7]]

    features.square().sum().backward()
    reached = [p.numel() for p in encoder.parameters() if p.grad is not None and p.grad.any()]
    assert sum(reached) == 12_864


def test_the_map_of_joints_holds_the_position_stream_first():
    """A motionless clip, biases at their initial zero: the motion stream has nothing to say."""
    encoder = build(feature_map="joints")
    still = clips(encoder)[:, :, :1].expand(-1, -1, 32, -1, -1)
    position, motion = encoder.features(still).chunk(2, dim=2)
    assert (motion == 0).all()
    assert (position != 0).any(dim=2).all()


def test_logits_are_the_same_with_either_map():
    units, joints = build().eval(), build(feature_map="joints").eval()
    x = clips(units)
    with torch.no_grad():
        torch.testing.assert_close(joints(x), units(x))


@pytest.mark.parametrize(
    ("graph", "window", "shape", "flat"),
    [
        ("ntu", 32, (256, 4, 4), 1024),
        ("ntu", 64, (256, 8, 8), 4096),
        ("nw-ucla", 52, (256, 6, 6), 2304),
        ("nw-ucla", 16, (256, 2, 2), 256),
        ("nw-ucla", 31, (256, 3, 3), 256),
    ],
)
def test_maps_follow_the_window(graph, window, shape, flat):
    encoder = build(graph, 5, 1, window).eval()
    assert encoder.feature_shape == shape
    assert encoder.fc.hidden.in_features == flat
    with torch.no_grad():
        assert encoder.features(clips(encoder)).shape == (2, 1, *shape)
        assert encoder(clips(encoder)).shape == (2, 5)


@pytest.mark.parametrize(
    ("graph", "num_classes", "window", "parameters"),
    [
        ("ntu", 60, 32, 1_062_652),
        ("ntu", 120, 32, 1_093_432),
        ("ntu", 60, 64, 2_647_868),
        ("ntu", 120, 64, 2_678_648),
        ("nw-ucla", 10, 52, 1_697_202),
    ],
)
def test_number_of_parameters(graph, num_classes, window, parameters):
    encoder = build(graph, num_classes, window=window)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


def test_multiply_accumulates(fixture):
    encoder = fixture.build().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(fixture.clips()[:1])
    assert counter.get_total_flops() == 2 * fixture.arrays["macs"]


def test_older_published_weights_have_a_narrower_hidden_layer():
    encoder = build(hidden=256)
    state = {"fc7.0.weight": (256, 1024), "fc7.0.bias": (256,), "fc8.weight": (60, 256), "fc8.bias": (60,)}
    table, own = encoder.published_names(), encoder.state_dict()
    shapes = {name: tuple(own[ours].shape) for ours, source in table.items() for name in source.names}
    assert state.items() <= shapes.items()


def test_initial_weights():
    """Glorot uniform: within ±sqrt(6 / (fan_in + fan_out))."""
    areas = {"conv1": 1, "conv2": 3, "conv3": 9, "conv4": 9, "conv5": 9, "conv6": 9, "hidden": 1, "output": 1}
    seen = 0
    for name, parameter in build().named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
            continue
        seen += 1
        outputs, inputs = parameter.shape[:2]
        bound = math.sqrt(6 / ((inputs + outputs) * areas[name.split(".")[-2]]))
        assert_uniform(parameter, bound)
    assert seen == 12


def test_dropout_acts_in_training_alone():
    encoder = build(**SMALL)
    x = clips(encoder, 4)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))
    without = build(**SMALL, dropout=0.0)
    assert torch.equal(without(x), encoder(x))


def test_dropout_before_the_joining_zeroes_whole_maps():
    encoder = build(**SMALL)
    maps = encoder.cooccurrence["motion"](torch.randn(8, 16, 20, 16))
    dropped = (maps == 0).flatten(2)
    assert torch.equal(dropped.all(dim=2), dropped.any(dim=2))
    assert 0.4 < dropped.all(dim=2).float().mean() < 0.6


def test_contrasted_features_of_the_last_map_are_free_of_its_dropout():
    """conv6's channels are rectified but none is dropped: with the dropout before it at rest, maps repeat exactly."""
    encoder = build(**SMALL)
    x = clips(encoder)
    assert not torch.equal(encoder.features(x), encoder.features(x))
    for part in (*encoder.cooccurrence.values(), encoder.aggregation):
        part.dropout.eval()
    features = encoder.features(x)
    assert torch.equal(encoder.features(x), features)
    assert not torch.equal(encoder.classify(features), encoder.classify(features))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 15}, "window: 15 frames halved four times leave none for HCN; take 16 or more"),
        ({"feature_map": "unit"}, r"feature_map: 'unit' .*\(did you mean 'units'\?\); known are units, joints"),
        ({"feature_map": None}, "feature_map: None is unknown"),
        ({"feature_map": ["units"]}, r"feature_map: \['units'\] is unknown"),
        ({"hidden": 0}, "hidden: must be an integer >= 1, got 0"),
        ({"dropout": 1.0}, "dropout: must be a probability in \\[0, 1\\), got 1.0"),
        ({"dropout": "0.5"}, "dropout: must be a probability in \\[0, 1\\), got '0.5'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)
