"""DC-GCN: its graph convolution, drops, initial values and schedule, from its specification and fixtures."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from graph import get_skeleton, spatial_partition
from model import EncoderError, build_encoder, load_published_weights
from model.dcgcn import DecoupledGraphConvolution
from model.draws import Draws
from model.drop_graph import DropGraph
from tests.model.draws import assert_normal
from tests.model.parity import LABELS, Fixture, largest_difference, relative_l2

BLOCKS = [(3, 64, 1), *[(64, 64, 1)] * 3, (64, 128, 2), *[(128, 128, 1)] * 2, (128, 256, 2), *[(256, 256, 1)] * 2]
"""(C_in, C_out, stride) of l1 to l10."""
PARAMETERS = {
    "ntu": [68_720, *[80_048] * 3, 220_976, *[228_400] * 2, 788_784, *[820_016] * 2],
    "nw-ucla": [57_920, *[69_248] * 3, 210_176, *[217_600] * 2, 777_984, *[809_216] * 2],
}
"""Of l1 to l10, with 16 groups."""


def build(graph="ntu", num_classes=60, **options):
    torch.manual_seed(0)
    return build_encoder("dcgcn", skeleton=get_skeleton(graph), num_classes=num_classes, **options)


@pytest.fixture(scope="module")
def encoder():
    return build()


class GivenDraws(Draws):
    """Numbers of a fixture, one draw after another."""

    def __init__(self, draws) -> None:
        self.left = list(draws)

    def uniform(self, rows, width, layer=0, draw=0):
        numbers = self.left.pop(0)
        return numbers.view(rows, width)


def test_training_with_drops_is_the_published_one(shared):
    fixture = Fixture(shared / "parity" / "encoders" / "dcgcn_ucla.npz", "dcgcn", "ucla")
    keep_rate = fixture.arrays["drop/keep_prob"].item()
    skeleton = get_skeleton("nw-ucla")
    sizes = {"skeleton": skeleton, "num_classes": 10, "num_persons": 1, "window": 52}
    encoder = build_encoder("dcgcn", **sizes, keep_rate=keep_rate, block_size=11, main_block_size=41)
    load_published_weights(encoder, fixture.published_state())
    encoder.double().train()
    names = [
        f"l{block}.{drop}" for block in range(7, 11) for drop in ("tcn1.dropS", "tcn1.dropT", "dropSke", "dropT_skip")
    ]
    draws = GivenDraws(torch.from_numpy(fixture.arrays[f"drop/uniform/{name}"]) for name in names)
    for module in encoder.modules():
        if isinstance(module, DropGraph):
            module.draws = draws
    x = fixture.clips().double().requires_grad_()
    logits = encoder(x)
    functional.cross_entropy(logits, LABELS).backward()
    assert not draws.left
    assert largest_difference(logits.detach(), fixture.expected("drop/train_logits64")) <= 1e-9
    assert relative_l2(x.grad, fixture.expected("drop/input_grad64")) <= 1e-6


def test_joints_fall_with_their_neighbours_and_frames_in_spans():
    """A chain of four joints; the seeds are where the drawn number is below rate / (1 + 1.5) or rate / 3."""
    drop = DropGraph(
        torch.eye(4) + torch.eye(4).roll(1, 0).tril() + torch.eye(4).roll(-1, 0).triu(), 3, rate=0.5
    ).train()
    x = torch.ones(2, 3, 4, 6)
    high, low = 0.99, 0.19
    drop.draws = GivenDraws([torch.tensor([[low, high, high, high], [high] * 4])])
    factors = drop.joint_factors(x)
    assert torch.equal(factors == 0, torch.tensor([[True, True, False, False], [False] * 4]))
    assert factors[factors > 0].tolist() == pytest.approx([8 / 6] * 6)
    low = 0.16
    drop.draws = GivenDraws([torch.tensor([[high, high, low, high, high, high], [high] * 5 + [low]])])
    factors = drop.frame_factors(x)
    expected = torch.tensor([[False, True, True, True, False, False], [False] * 4 + [True] * 2])
    assert torch.equal(factors == 0, expected)
    assert factors[factors > 0].tolist() == pytest.approx([12 / 7] * 7)


def test_activity_decides_where_drops_start():
    """Means over the whole batch: the first skeleton is three times as active as the second."""
    drop = DropGraph(torch.eye(2), 1, rate=0.4).train()
    x = torch.tensor([1.5, 0.5]).view(2, 1, 1, 1).expand(2, 3, 2, 4)
    numbers = torch.tensor([[0.29, 0.31], [0.09, 0.11]])  # around 0.4 / 2 * 1.5 and 0.4 / 2 * 0.5
    drop.draws = GivenDraws([numbers])
    assert torch.equal(drop.joint_factors(x) == 0, torch.tensor([[True, False], [True, False]]))


def test_nothing_is_dropped_in_evaluation_or_at_rate_0_and_an_empty_rest_is_zero():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 6)
    assert DropGraph(torch.eye(4), 3, rate=0.9).eval()(x) is x
    torch.testing.assert_close(DropGraph(torch.eye(4), 3, rate=0.0)(x), x)
    nothing = DropGraph(torch.ones(4, 4), 3, rate=0.9)
    nothing.draws = GivenDraws([torch.zeros(2, 4), torch.zeros(2, 6)])
    assert torch.equal(nothing(x), torch.zeros_like(x))


def test_drops_grow_to_the_end_and_topologies_wait_for_the_second_epoch():
    encoder = build("nw-ucla", num_persons=1, window=8, base_channels=16, keep_rate=0.8)
    drops = [module for module in encoder.modules() if isinstance(module, DropGraph)]
    topologies = [block.gcn.topology for block in encoder.blocks.values()]
    assert [drop.drop_rate.item() for drop in drops] == pytest.approx([0.2] * 8)
    for epoch, rate in ((1, 0.0), (2, 0.02), (6, 0.1), (10, 0.18)):
        encoder.begin_step(epoch, 10, Draws((0, epoch, 1)))
        assert [drop.drop_rate.item() for drop in drops] == pytest.approx([rate] * 8)
        for parameter in encoder.parameters():
            parameter.grad = torch.ones_like(parameter)
        encoder.edit_gradients()
        assert all((topology.grad is None) == (epoch == 1) for topology in topologies)
        assert encoder.fc.linear.weight.grad is not None


def test_drops_are_in_the_last_four_blocks_with_their_spans():
    encoder = build("nw-ucla", num_persons=1, window=8, base_channels=16, block_size=11, main_block_size=41)
    for number, block in enumerate(encoder.blocks.values(), start=1):
        sizes = [getattr(drop, "block_size", None) for drop in (block.main_drop, block.skip_drop)]
        assert sizes == ([41, 11] if number >= 7 else [None, None])


@pytest.mark.parametrize(("in_channels", "out_channels"), [(3, 8), (8, 8)])
def test_graph_convolution_one_channel_and_joint_at_a_time(in_channels, out_channels):
    """Neutral running statistics: a normalisation is its weight over sqrt(1 + eps), plus its bias."""
    torch.manual_seed(0)
    joints, frames, groups = 5, 4, 4
    layer = DecoupledGraphConvolution(in_channels, out_channels, torch.rand(3, joints, joints), groups).double().eval()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(torch.rand(parameter.shape) if name == "topology" else torch.randn(parameter.shape))
    x = torch.randn(2, in_channels, joints, frames, dtype=torch.float64)

    def normalised(bn, y):
        return y / math.sqrt(1 + 1e-5) * bn.weight.view(-1, 1, 1) + bn.bias.view(-1, 1, 1)

    mapped = normalised(
        layer.transform_bn,
        torch.einsum("dc,ncvt->ndvt", layer.transform.weight[..., 0, 0], x) + layer.transform.bias.view(-1, 1, 1),
    )
    total = torch.zeros(2, out_channels, joints, frames, dtype=torch.float64)
    for c in range(out_channels):
        for k in range(3):
            topology = layer.topology[k, c % groups]
            for w in range(joints):
                share = topology[:, w] / (topology[:, w].sum() + 0.001)
                total[:, c, w] += (share.view(1, -1, 1) * mapped[:, 3 * c + k]).sum(dim=1)
    down = x if in_channels == out_channels else layer.down(x)
    expected = functional.relu(normalised(layer.bn, total) + down)
    assert expected.any()
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("number", range(10))
def test_initial_weights(encoder, number):
    in_channels, out_channels, _ = BLOCKS[number]
    block = encoder.blocks[f"l{number + 1}"]
    assert_normal(block.gcn.transform.weight, math.sqrt(0.5 / (3 * out_channels)))
    assert (block.gcn.transform.bias == 1e-6).all()
    assert (block.gcn.bn.weight == 1e-6).all()
    graph = torch.from_numpy(spatial_partition(encoder.skeleton))
    assert torch.equal(block.gcn.topology, graph[:, None].expand(3, 16, 25, 25))
    assert_normal(block.tcn.conv.weight, math.sqrt(2 / (out_channels * 9)))
    projections = [block.gcn.down] if in_channels != out_channels else []
    if in_channels != out_channels and number > 0:
        projections.append(block.residual)
    for projection in projections:
        assert_normal(projection.conv.weight, math.sqrt(2 / out_channels))
    for layer in (block.tcn, *projections):
        assert not layer.conv.bias.any()
        assert (layer.bn.weight == 1).all()
    assert (block.gcn.transform_bn.weight == 1).all()


def test_the_graph_of_nw_ucla_holds_the_root_as_its_own_child():
    graph = build("nw-ucla", num_persons=1, window=8, base_channels=16).blocks["l1"].gcn.topology[:, 0]
    assert graph[1, 2, 2] == 1
    assert [(row, graph[2, row, 2].item()) for row in graph[2, :, 2].nonzero().flatten().tolist()] == [
        (row, pytest.approx(0.2)) for row in (1, 2, 3, 4, 8)
    ]
    assert [part.count_nonzero().item() for part in graph] == [20, 20, 20]


@pytest.mark.parametrize("graph", PARAMETERS)
def test_number_of_parameters_of_every_block(graph):
    blocks = build(graph, num_persons=1, window=8).blocks.values()
    assert [sum(p.numel() for p in block.parameters()) for block in blocks] == PARAMETERS[graph]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_channels": 24}, "base_channels: must be a multiple of 16, got 24; try 16"),
        ({"groups": 0}, "groups: must be an integer >= 1, got 0"),
        ({"keep_rate": 0}, r"keep_rate: must be a probability in \(0, 1\], got 0"),
        ({"keep_rate": 1.5}, r"keep_rate: must be a probability in \(0, 1\], got 1.5"),
        ({"block_size": 10}, "block_size: must be odd, .* got 10"),
        ({"main_block_size": 0}, "main_block_size: must be an integer >= 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)
