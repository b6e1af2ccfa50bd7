"""Shift-GCN: its shifts, initial values and what it asks of training, from its specification and fixtures."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from graph import get_skeleton
from model import WeightsError, build_encoder, load_published_weights
from model.published_weights import published_state_dict
from model.shiftgcn import FrameShift, ShiftGraphConvolution
from tests.model.draws import assert_normal, assert_uniform
from tests.model.parity import LABELS, Fixture, largest_difference

BLOCKS = [(3, 64, 1), *[(64, 64, 1)] * 3, (64, 128, 2), *[(128, 128, 1)] * 2, (128, 256, 2), *[(256, 256, 1)] * 2]
"""(C_in, C_out, stride) of l1 to l10."""
PARAMETERS = {
    "ntu": [8_459, *[13_504] * 3, 50_752, *[43_392] * 2, 183_424, *[152_320] * 2],
    "nw-ucla": [7_804, *[12_544] * 3, 49_152, *[41_472] * 2, 180_224, *[148_480] * 2],
}
"""Of l1 to l10."""


def build(graph="ntu", num_classes=60, **options):
    torch.manual_seed(0)
    return build_encoder("shiftgcn", skeleton=get_skeleton(graph), num_classes=num_classes, **options)


@pytest.fixture(scope="module")
def encoder():
    return build()


@pytest.fixture(scope="module")
def fixture(shared):
    return Fixture(shared / "parity" / "encoders" / "shiftgcn_ucla.npz", "shiftgcn", "ucla")


@pytest.mark.parametrize("stride", [1, 2])
def test_a_shift_of_frames_is_the_published_one(fixture, stride):
    arrays = {name: torch.from_numpy(array) for name, array in fixture.arrays.items() if name.startswith("shift/")}
    x = arrays["shift/x"].clone().requires_grad_()
    shift = FrameShift(len(arrays["shift/y"]), stride).double()
    with torch.no_grad():
        shift.frames.copy_(arrays["shift/y"])
    out = shift(x.transpose(2, 3))
    out.backward(arrays[f"shift/upstream_{stride}"].transpose(2, 3))
    assert torch.equal(out.transpose(2, 3), arrays[f"shift/out_{stride}"])
    assert largest_difference(x.grad, arrays[f"shift/grad_x_{stride}"]) <= 1e-15
    raw = arrays[f"shift/grad_y_raw_{stride}"]
    assert largest_difference(shift.frames.grad / len(x), raw) <= 1e-14
    assert (raw == 0).any()
    assert torch.equal(shift.frames.grad == 0, raw == 0)


def test_the_optimiser_sees_signs_of_the_published_gradients(fixture):
    encoder = fixture.build()
    load_published_weights(encoder, fixture.published_state())
    encoder.double().train()
    functional.cross_entropy(encoder(fixture.clips().double()), LABELS).backward()
    parts = [name.split(".") for name in fixture.meta["ypos_names"]]
    shifts = [encoder.get_submodule(f"blocks.{block}.tcn.{which}").frames for block, _, which, _ in parts]
    skeletons = 2 * encoder.num_persons
    found = torch.cat([frames.grad for frames in shifts]) / skeletons
    assert largest_difference(found, fixture.expected("ypos_grad_raw64")) <= 1e-12
    others = {name: p.grad.clone() for name, p in encoder.named_parameters() if not name.endswith("frames")}
    encoder.edit_gradients()
    edited = torch.cat([frames.grad for frames in shifts])
    torch.testing.assert_close(edited, fixture.expected("ypos_grad64"), rtol=1e-6, atol=0)
    assert all(torch.equal(encoder.get_parameter(name).grad, grad) for name, grad in others.items())


def test_a_shift_without_gradient_still_moves_and_a_frozen_one_does_not(encoder):
    first, second, *_ = (module for module in encoder.modules() if isinstance(module, FrameShift))
    first.frames.grad = torch.zeros(64).index_fill(0, torch.tensor([3]), -7.0)
    encoder.edit_gradients()
    assert first.frames.grad[3] == pytest.approx(-0.01)
    assert torch.equal(first.frames.grad[4:], torch.full((60,), 1e-4))
    assert second.frames.grad is None
    first.frames.grad = None


def test_frames_beyond_an_odd_end_are_zero():
    """Seven frames at stride 2: four outputs, of which the last has only one frame to read."""
    shift = FrameShift(1, stride=2)
    with torch.no_grad():
        shift.frames.fill_(0.0)
    out = shift(torch.arange(1.0, 8).view(1, 1, 1, 7))
    assert out.flatten().tolist() == [1.5, 3.5, 5.5, 3.5]


@pytest.mark.parametrize(("in_channels", "out_channels"), [(3, 8), (8, 8)])
def test_graph_convolution_one_channel_and_joint_at_a_time(in_channels, out_channels):
    """Neutral running statistics: a normalisation is its weight over sqrt(1 + eps), plus its bias."""
    torch.manual_seed(0)
    joints, frames, scale = 5, 4, 1 / math.sqrt(1 + 1e-5)
    layer = ShiftGraphConvolution(in_channels, out_channels, joints).double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    x = torch.randn(2, in_channels, joints, frames, dtype=torch.float64)
    weight, bias = layer.linear.weight[:, :, 0, 0], layer.linear.bias
    mapped = torch.zeros(2, out_channels, joints, frames, dtype=torch.float64)
    for v in range(joints):
        moved = torch.stack(
            [x[:, c, (v + c) % joints] * (1 + layer.mask[c, v].tanh()) for c in range(in_channels)], dim=1
        )
        mapped[:, :, v] = torch.einsum("dc,nct->ndt", weight, moved) + bias[:, None]
    down = x if in_channels == out_channels else layer.down(x)
    expected = torch.zeros_like(mapped)
    norm_weight, norm_bias = layer.bn.weight.view(-1, joints), layer.bn.bias.view(-1, joints)
    for v in range(joints):
        for d in range(out_channels):
            value = mapped[:, d, (v - d) % joints] * scale * norm_weight[d, v] + norm_bias[d, v]
            expected[:, d, v] = functional.relu(value + down[:, d, v])
    assert expected.any()
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("number", range(10))
def test_initial_weights(encoder, number):
    in_channels, out_channels, _ = BLOCKS[number]
    block = encoder.blocks[f"l{number + 1}"]
    assert_normal(block.gcn.linear.weight, math.sqrt(1 / out_channels))
    assert not block.gcn.linear.bias.any()
    assert not block.gcn.mask.any()
    assert_normal(block.tcn.linear.weight, math.sqrt(2 / out_channels))
    projections = [block.gcn.down] if in_channels != out_channels else []
    if in_channels != out_channels and number > 0:
        projections.append(block.residual)
    for projection in projections:
        assert_normal(projection.conv.weight, math.sqrt(2 / out_channels))
        assert not projection.conv.bias.any()
    norms = [module for module in block.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 3 + len(projections)
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


def test_initial_shifts_and_biases_of_temporal_modules(encoder):
    tcns = [block.tcn for block in encoder.blocks.values()]
    assert_uniform(torch.cat([shift.frames for tcn in tcns for shift in (tcn.shift_in, tcn.shift_out)]), 1)
    biases = [tcn.linear.bias for tcn in tcns]
    assert_uniform(torch.cat([bias * math.sqrt(len(bias)) for bias in biases]), 1)


@pytest.mark.parametrize("graph", PARAMETERS)
def test_number_of_parameters_of_every_block(graph):
    blocks = build(graph, num_persons=1, window=8).blocks.values()
    assert [sum(p.numel() for p in block.parameters()) for block in blocks] == PARAMETERS[graph]


def test_weight_decay_is_that_of_the_published_trainer(encoder):
    factors = encoder.weight_decay_factors()
    assert len(factors) == 20
    for name, parameter in encoder.named_parameters():
        factor = 10 if name.endswith("gcn.linear.weight") else 0 if name.endswith("gcn.mask") else 1
        assert factors.get(name, 1) == factor
        assert parameter.requires_grad


def test_the_shift_along_joints_must_be_zero_and_its_traces_are_dropped():
    encoder = build("nw-ucla", num_persons=1, window=8, base_channels=4)
    state = published_state_dict(encoder)
    assert not state["l3.tcn1.shift_out.xpos"].any()
    load_published_weights(encoder, state | {"l3.tcn1.shift_out.xpos": torch.full((4,), -2.6e-10)})
    with pytest.raises(WeightsError, match=r"l3\.tcn1\.shift_out\.xpos: not the constant that it is in published"):
        load_published_weights(encoder, state | {"l3.tcn1.shift_out.xpos": torch.full((4,), 1e-3)})
    other = state["l2.gcn1.shift_in"].flip(0)
    with pytest.raises(WeightsError, match=r"l2\.gcn1\.shift_in: not the constant"):
        load_published_weights(encoder, state | {"l2.gcn1.shift_in": other})


def test_a_block_compiles_without_graph_breaks():
    block = build("nw-ucla", num_persons=1, window=8, base_channels=4).blocks["l5"]
    x = torch.randn(2, 4, 20, 8)
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="eager")(x), block(x))
