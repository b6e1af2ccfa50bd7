"""Hyper-GCN: initial values, options, its own loss and its size large, from its specification and fixtures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from graph import get_skeleton, links_with_virtual_joints
from model import EncoderError, build_encoder, load_published_weights
from model.hypergcn import HEADS, virtual_joint_similarity
from tests.model.draws import assert_normal, assert_uniform
from tests.model.parity import SKELETONS, Fixture, largest_difference


def build(graph="nw-ucla", num_classes=10, persons=1, window=64, **options):
    torch.manual_seed(0)
    return build_encoder(
        "hypergcn",
        skeleton=get_skeleton(graph),
        num_classes=num_classes,
        num_persons=persons,
        window=window,
        **options,
    )


@pytest.fixture(params=SKELETONS)
def fixture(request, shared):
    return Fixture(shared / "parity" / "encoders" / f"hypergcn_{request.param}.npz", "hypergcn", request.param)


@pytest.mark.parametrize("size", ["base", "large"])
def test_initial_values(size):
    encoder = build(size=size)
    assert encoder.label_smoothing == 0.1
    assert_uniform(encoder.embedding.coordinates.weight, 1 / math.sqrt(3))
    assert_normal(encoder.embedding.position, 1.0)
    for block in encoder.blocks.values():
        gcn = block.gcn
        assert torch.equal(gcn.virtual_joints, gcn.virtual_joints[:1].expand(3, -1))
        assert_normal(gcn.virtual_joints[0], 1.0)
        assert gcn.alpha.tolist() == [1]
        assert gcn.importance.eq(1).all()
        assert torch.equal(gcn.bn.weight, torch.full_like(gcn.bn.weight, 1e-6))
        for layer in (gcn.embed, gcn.weigh[0], gcn.weigh[2], gcn.transform):
            assert_normal(layer.weight, math.sqrt(2 / layer.out_channels))
            assert layer.bias.eq(0).all()


@pytest.mark.parametrize(("graph", "total"), [("ntu", 226), ("nw-ucla", 181)])
def test_links(graph, total):
    links = links_with_virtual_joints(get_skeleton(graph), 3)
    assert links.dtype == np.float32
    assert links.sum() == total
    np.testing.assert_array_equal(links, links.T)
    np.testing.assert_array_equal(links[-3:, -3:], np.eye(3))
    assert links[-1, :-3].all()


def test_published_links(fixture):
    links = links_with_virtual_joints(get_skeleton(SKELETONS[fixture.graph]), 3)
    assert np.array_equal(np.broadcast_to(links, (HEADS, *links.shape)), fixture.arrays["graph/A"])


def test_relations_and_own_loss_are_the_published_ones(fixture):
    encoder = fixture.build()
    load_published_weights(encoder, fixture.published_state())
    encoder.eval().double()
    inputs = []
    encoder.blocks["l9"].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        encoder(fixture.clips().double())
        graph = encoder.blocks["l9"].gcn.hypergraph(inputs[0])
    assert largest_difference(graph, fixture.expected("relations64")) <= 1e-9
    loss = encoder.own_losses(torch.tensor([1, 3]))["divergence"].item()
    assert loss == pytest.approx(fixture.arrays["divergence64"].item(), abs=1e-12)


def test_the_large_size_is_the_published_one(fixture):
    _, _, window, _, persons = fixture.arrays["input_shape"].tolist()
    classes = fixture.arrays["logits"].shape[1]
    encoder = build(SKELETONS[fixture.graph], classes, persons, window, size="large")
    assert sum(p.numel() for p in encoder.parameters()) == fixture.arrays["large/params"]
    base = fixture.published_state()
    keys = json.loads(str(fixture.arrays["large/keys"]))
    kept = (".alpha", ".PA")
    state = {name: base[name] if name.endswith(kept) else fixture.by_rule(name, *rest) for name, *rest in keys}
    load_published_weights(encoder, state)
    encoder.eval().double()
    with torch.no_grad():
        logits = encoder(fixture.clips().double())
    assert largest_difference(logits, fixture.expected("large/logits64")) <= 1e-9


def test_virtual_joints_apart_and_alike():
    alike = torch.ones(3, 8)
    assert virtual_joint_similarity(alike).item() == pytest.approx(1)
    assert virtual_joint_similarity(torch.eye(3)).item() == pytest.approx(0)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]])
    assert virtual_joint_similarity(opposite).item() == pytest.approx(0)  # a negative cosine is no similarity


def test_the_own_loss_is_the_mean_over_the_blocks_and_can_be_switched_off():
    encoder = build(base_channels=32, window=8, divergence_weight=0.5)
    labels = torch.zeros(2, dtype=torch.int64)
    assert encoder.own_losses(labels)["divergence"].item() == pytest.approx(0.5)
    with torch.no_grad():
        encoder.blocks["l4"].gcn.virtual_joints.copy_(torch.eye(3, 32))
    assert encoder.own_losses(labels)["divergence"].item() == pytest.approx(0.5 * 8 / 9)
    assert build(base_channels=32, window=8, divergence_weight=0).own_losses(labels) == {}


def test_the_third_block_of_three_reads_the_sum_of_the_two_before():
    encoder = build(base_channels=32, window=8).eval()
    inputs, outputs = {}, {}

    def keep(name):
        def hook(_, given, output):
            inputs[name], outputs[name] = given[0], output

        return hook

    for name, block in encoder.blocks.items():
        block.register_forward_hook(keep(name))
    with torch.no_grad():
        encoder(torch.randn(2, 3, 8, 20, 1))
    for first in (1, 4, 7):
        assert torch.equal(inputs[f"l{first + 1}"], outputs[f"l{first}"])
        assert torch.equal(inputs[f"l{first + 2}"], outputs[f"l{first + 1}"] + outputs[f"l{first}"])
    assert torch.equal(inputs["l4"], outputs["l3"])


def test_a_skeleton_of_few_joints():
    encoder = build("sbu", window=8, base_channels=32).eval()
    with torch.no_grad():
        assert encoder(torch.randn(2, 3, 8, 15, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, "size: 'huge' is unknown; known are base, large"),
        ({"base_channels": 48}, "base_channels: must be a multiple of 32, got 48; try 32"),
        ({"divergence_weight": -1}, "divergence_weight: must be a number >= 0, got -1"),
        ({"label_smoothing": 1.0}, "label_smoothing: must be a probability"),
        ({"dropout": 1.0}, "dropout: must be a probability"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)
