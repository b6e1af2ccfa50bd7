"""HD-GCN: initial values, options and edge convolutions from its specification; other centres against its fixtures."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from graph import get_skeleton, hierarchy_adjacency, joint_hierarchy
from model import EncoderError, WeightsError, build_encoder, load_published_weights
from model.hdgcn import EdgeConvolution
from model.published_weights import published_state_dict
from tests.model.draws import assert_normal, assert_uniform
from tests.model.parity import SKELETONS, Fixture, largest_difference


def build(graph="nw-ucla", num_classes=10, persons=1, window=52, **options):
    torch.manual_seed(0)
    return build_encoder(
        "hdgcn",
        skeleton=get_skeleton(graph),
        num_classes=num_classes,
        num_persons=persons,
        window=window,
        **options,
    )


@pytest.fixture(scope="module")
def encoder():
    return build()


def test_initial_values(encoder):
    adjacency = torch.from_numpy(hierarchy_adjacency(joint_hierarchy(encoder.skeleton, encoder.skeleton.root)))
    for name, block in encoder.blocks.items():
        gcn, width = block.gcn, block.gcn.bn.num_features // 4
        assert torch.equal(gcn.topology, adjacency)
        assert torch.equal(gcn.bn.weight, torch.full_like(gcn.bn.weight, 1e-6))
        assert gcn.reduce_bn.weight.eq(1).all()
        for layer in (gcn.reduce, gcn.subsets, gcn.edges.conv):
            assert_normal(layer.weight, math.sqrt(2 / width))
        assert gcn.reduce.bias.eq(0).all()
        assert gcn.subsets.bias.eq(0).all()
        assert (gcn.attention is None) == (name == "l1")
        if gcn.attention is not None:
            assert_normal(gcn.attention.reduce.weight, math.sqrt(2 / width))
            assert_normal(gcn.attention.edges.conv.weight, math.sqrt(2 / width))
            assert_uniform(gcn.attention.aggregate.weight, 1 / math.sqrt(width))
        for norm in (block.tcn.entry_bn, block.tcn.bn):
            assert_normal(norm.weight, 0.02, mean=1.0)


@pytest.mark.parametrize("centre", [1, 2])
@pytest.mark.parametrize("graph", SKELETONS)
def test_other_centres_of_mass_are_the_published_ones(shared, graph, centre):
    fixture = Fixture(shared / "parity" / "encoders" / f"hdgcn_{graph}.npz", "hdgcn", graph)
    _, _, window, joints, persons = fixture.arrays["input_shape"].tolist()
    skeleton = get_skeleton(SKELETONS[graph])
    classes = fixture.arrays["logits"].shape[1]
    encoder = build(SKELETONS[graph], classes, persons, window, centre_of_mass=skeleton.joint_names[centre - 1])
    assert sum(p.numel() for p in encoder.parameters()) == fixture.arrays[f"com{centre}/params"]
    state, aliases = published_state_dict(encoder), encoder.published_aliases()
    assert len(state) == fixture.arrays[f"com{centre}/entries"]
    graphs = torch.from_numpy(fixture.arrays[f"com{centre}/A"])
    assert graphs.shape[-1] == joints
    for name, tensor in state.items():
        ruled = fixture.by_rule(aliases.get(name, name), list(tensor.shape), str(tensor.dtype))
        state[name] = graphs if name.endswith(".PA") else ruled
    load_published_weights(encoder, state)
    encoder.eval().double()
    with torch.no_grad():
        logits = encoder(fixture.clips().double())
    assert largest_difference(logits, fixture.expected(f"com{centre}/logits64")) <= 1e-9


def test_a_checkpoint_whose_doubled_names_differ_is_refused():
    encoder = build(base_channels=4, window=8)
    state = published_state_dict(encoder)
    state["l3.gcn1.conv_d.1.0.bias"] = state["l3.gcn1.conv.5.1.0.bias"] + 1
    with pytest.raises(
        WeightsError, match=r"1 pairs .*: l3\.gcn1\.conv_d\.1\.0\.bias and l3\.gcn1\.conv\.5\.1\.0\.bias"
    ):
        load_published_weights(encoder, state)
    del state["l3.gcn1.conv_d.1.0.bias"]
    with pytest.raises(WeightsError, match=r"1 missing: l3\.gcn1\.conv_d\.1\.0\.bias"):
        load_published_weights(encoder, state)


@pytest.mark.parametrize(("groups", "points", "nearest"), [(1, 6, 3), (3, 20, 5), (2, 2, 3)])
def test_edge_convolution_by_its_definition(groups, points, nearest):
    torch.manual_seed(0)
    layer = EdgeConvolution(groups, 4, nearest).double().eval()
    torch.nn.init.normal_(layer.bn.bias)
    h = torch.randn(2, groups, 4, points, dtype=torch.float64)
    given = layer(h)
    scale = 1 / math.sqrt(1 + 1e-5)
    for skeleton in range(2):
        for group in range(groups):
            rows = h[skeleton, group].T
            weight = layer.conv.weight[4 * group : 4 * group + 4, :, 0, 0]
            bias = layer.bn.bias[4 * group : 4 * group + 4]
            for i in range(points):
                distance = (rows - rows[i]).square().sum(dim=1)
                chosen = distance.argsort()[:nearest]
                edges = torch.cat([rows[chosen] - rows[i], rows[i].expand(len(chosen), -1)], dim=1) @ weight.T
                expected = functional.leaky_relu(edges * scale + bias, 0.2).amax(dim=0)
                torch.testing.assert_close(given[skeleton, group, :, i], expected)


def test_a_skeleton_of_few_layers_and_joints():
    encoder = build("sbu", window=8, base_channels=4).eval()
    assert encoder.num_layers == 4  # from the neck to the feet
    with torch.no_grad():
        assert encoder(torch.randn(2, 3, 8, 15, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_channels": 6}, "base_channels: must be a multiple of 4, got 6; try 4"),
        ({"dropout": 1.0}, "dropout: must be a probability"),
        (
            {"centre_of_mass": "spin"},
            "centre_of_mass: skeleton 'nw-ucla' has no joint 'spin'.*did you mean 'spine'.*hip",
        ),
        ({"centre_of_mass": 21}, "centre_of_mass: skeleton 'nw-ucla' has no joint 21"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)
