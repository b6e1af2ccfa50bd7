"""SkateFormer: initial values, windows, biases, frame indices, what it shows; from its specification and fixtures."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from graph import equal_parts, get_skeleton
from model import EncoderError, build_encoder, load_published_weights
from model.draws import Draws
from model.dropout import DropPath
from model.skateformer import WindowAttention, sinusoid
from tests.model.draws import assert_normal, assert_uniform
from tests.model.parity import LABELS, SKELETONS, Fixture, largest_difference, relative_l2

SLIM = {"base_channels": 32, "mlp_ratio": 1}
BODY = {  # 1-based joints of the windows of neighbouring and of strided joints; on NTU of each person
    "ntu": (
        ({7, 8, 22, 23, 11, 12, 24, 25}, set(range(13, 21)), {5, 9, 6, 10, 2, 3, 1, 4}),
        ({7, 11, 13, 17, 5, 2}, {8, 12, 14, 18, 9, 3}, {22, 24, 15, 19, 6, 1}, {23, 25, 16, 20, 10, 4}),
    ),
    "nw-ucla": (
        ({5, 6, 7, 8}, {9, 10, 11, 12}, {13, 14, 15, 16}, {17, 18, 19, 20}, {2, 3, 1, 4}),
        ({5, 9, 13, 17, 2}, {6, 10, 14, 18, 3}, {7, 11, 15, 19, 1}, {8, 12, 16, 20, 4}),
    ),
}


def build(graph="nw-ucla", num_classes=10, persons=1, window=64, **options):
    torch.manual_seed(0)
    return build_encoder(
        "skateformer",
        skeleton=get_skeleton(graph),
        num_classes=num_classes,
        num_persons=persons,
        window=window,
        **options,
    )


@pytest.fixture(scope="module", params=SKELETONS)
def fixture(request, shared):
    return Fixture(shared / "parity" / "encoders" / f"skateformer_{request.param}.npz", "skateformer", request.param)


@pytest.fixture(scope="module")
def published(fixture):
    """In double precision and evaluation mode; tests leave the weights alone."""
    encoder = fixture.build()
    load_published_weights(encoder, fixture.published_state())
    return encoder.double().eval()


def test_initial_values():
    encoder = build("ntu", 60, persons=2)
    assert encoder.label_smoothing == 0.1
    assert_normal(encoder.embedding.cells, 0.02)
    for block in encoder.blocks.values():
        assert_normal(block.joint_mixing, 0.02)
        for attention in block.attention:
            assert_normal(attention.bias, 0.02)
    for layer in encoder.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert layer.weight.abs().max() <= bound
            assert layer.bias.abs().max() <= bound
            if layer.weight.numel() > 1000:
                assert_uniform(layer.weight, bound)
        if isinstance(layer, nn.LayerNorm | nn.BatchNorm2d):
            assert layer.weight.eq(1).all()
            assert layer.bias.eq(0).all()


def test_drop_path_grows_evenly():
    rates = [layer.rate for layer in build(**SLIM).modules() if isinstance(layer, DropPath)]
    assert rates == pytest.approx([0.2 * block / 7 for block in range(8) for _ in range(2)])


def test_what_is_dropped_depends_on_the_step_alone():
    encoder, x = build(**SLIM).train(), torch.randn(2, 3, 64, 20, 1)

    def logits(*key):
        torch.rand(1)  # what else was drawn does not matter
        encoder.begin_step(key[1], 5, Draws(key))
        with torch.no_grad():
            return encoder(x)

    first = logits(0, 2, 3)
    assert torch.equal(logits(0, 2, 3), first)
    for other in ((1, 2, 3), (0, 1, 3), (0, 2, 4)):
        assert not torch.allclose(logits(*other), first, rtol=1e-2, atol=1e-2)


def test_narrow_mlps():
    assert sum(p.numel() for p in build("ntu", 60, persons=2, mlp_ratio=1).parameters()) == 2_174_355


def test_published_order_of_the_joints(fixture):
    parts = equal_parts(get_skeleton(SKELETONS[fixture.graph]))
    assert [joint for part in parts for joint in part] == fixture.arrays["graph/joint_order"].tolist()


def test_other_frame_indices(fixture, published):
    index = torch.from_numpy(fixture.arrays["index/frame_index"])
    x = fixture.clips().double().requires_grad_()
    with torch.no_grad():
        assert largest_difference(published(x, frame_index=index), fixture.expected("index/logits64")) <= 1e-11
    logits = copy.deepcopy(published).train()(x, frame_index=index)
    functional.cross_entropy(logits, LABELS).backward()
    assert largest_difference(logits.detach(), fixture.expected("index/train_logits64")) <= 1e-11
    assert relative_l2(x.grad, fixture.expected("index/input_grad64")) <= 1e-11


def test_the_whole_recording_is_the_usual_frame_index(fixture, published):
    x, usual = fixture.clips().double(), torch.arange(64) / 32 - 1
    with torch.no_grad():
        assert torch.equal(published(x, frame_index=usual.expand(2, -1)), published(x))


def test_stages_have_the_published_means(fixture, published):
    embedded = []
    handle = published.embedding.register_forward_hook(lambda *given: embedded.append(given[-1]))
    with torch.no_grad():
        stages = published.observe(fixture.clips().double(), reads=["stages"]).stages
    handle.remove()
    means = {f"stage{number}": maps.mean(dim=(1, 3, 4)) for number, maps in enumerate(stages.values())}
    for name, mean in (means | {"embedded": embedded[0].mean(dim=(1, 2))}).items():
        assert largest_difference(mean, fixture.expected(f"mean64/{name}")) <= 1e-11


def test_sines_and_cosines_take_turns():
    waves = sinusoid(torch.tensor([[0.5, -1.0]]), 6)
    angles = [0.5, 0.5 * 10000 ** (-1 / 3), 0.5 * 10000 ** (-2 / 3)]
    assert waves.shape == (1, 2, 6)
    assert waves.dtype == torch.float64
    expected = [wave(angle) for angle in angles for wave in (math.sin, math.cos)]
    assert waves[0, 0].tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("strided_frames", [False, True])
@pytest.mark.parametrize("width", [8, 4, 5])
def test_the_bias_of_neighbouring_joints_is_tiled_over_the_cells_as_published(width, strided_frames):
    """It was meant for frames; with 8 joints of a window it depends on these alone."""
    attention = WindowAttention(width, strided_frames, False, 0.0)
    assert attention.bias.shape == (15, 4)
    expected = [[s % 8 - other % 8 + 7 for other in range(8 * width)] for s in range(8 * width)]
    assert attention.index.tolist() == expected


@pytest.mark.parametrize("strided_frames", [False, True])
def test_the_bias_of_strided_joints_is_of_frames_and_pairs_of_joints(strided_frames):
    attention = WindowAttention(5, strided_frames, True, 0.0)
    table = torch.randn(15, 5, 5, 4)
    (source,) = [s for s in attention.published_names().values() if s.constant is None]
    bias = source.join([table])[attention.index].unflatten(1, (8, 5)).unflatten(0, (8, 5))
    for i, j, other_i, other_j in ((0, 0, 7, 4), (7, 1, 0, 3), (3, 2, 3, 2), (5, 4, 6, 0)):
        assert torch.equal(bias[i, j, other_i, other_j], table[i - other_i + 7, j, other_j])


@pytest.mark.parametrize(("strided_frames", "frames"), [(False, set(range(8, 16))), (True, set(range(1, 16, 2)))])
def test_frames_of_a_window(strided_frames, frames):
    """Of 16 frames, those whose change reaches frame 9."""
    torch.manual_seed(0)
    attention = WindowAttention(4, strided_frames, False, 0.0)
    x = torch.randn(1, 8, 16, 24, requires_grad=True)
    attention(x)[0, 0, 9].sum().backward()
    assert {int(t) for t in x.grad[0].abs().sum(dim=(0, 2)).nonzero()} == frames


@pytest.mark.parametrize(("graph", "persons"), [("ntu", 2), ("nw-ucla", 1)])
def test_joints_of_a_window(graph, persons):
    encoder = build(graph, persons=persons, **SLIM)
    order = torch.tensor(equal_parts(get_skeleton(graph))).flatten() + 1
    maps = torch.randn(1, persons * len(order), 8, 64)
    relations = encoder.blocks["l8"].relations(maps)[0]
    seen = (relations > 0).view(16, persons, len(order), persons, len(order))
    for subset in range(16):
        groups = BODY[graph][subset // 4 % 2]
        for person in range(persons):
            for cell, joint in enumerate(order.tolist()):
                (group,) = [group for group in groups if joint in group]
                for other, reached in enumerate(seen[subset, person, cell]):
                    crossing = subset // 4 % 2 == 1
                    expected = group if crossing or other == person else set()
                    assert set(order[reached].tolist()) == expected


def test_relations_are_the_attention_of_the_mean_frame_within_persons():
    """A hand-made sum over all cells, from queries and keys of the last block."""
    encoder = build("ntu", persons=2, **SLIM).double().eval()
    x, inputs = torch.randn(1, 3, 64, 25, 2, dtype=torch.float64), []
    encoder.blocks["l8"].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        relations = encoder.observe(x, reads=["relations"]).relations
        assert relations.shape == (1, *encoder.relation_shape) == (1, 16, 24, 24)
        block, maps = encoder.blocks["l8"], inputs[0]
        parts = block.mapping(block.mixing_norm(maps))[0, ..., 32:].unflatten(-1, (4, 3, 4, 2))  # w, t, kind, qkv, h, d
        for kind in (0, 1):  # of 8 frames the strided ones are the same
            query, key = parts[:, :, kind, 0], parts[:, :, kind, 1]
            attention = block.attention[kind]
            expected = torch.zeros(4, 48, 48, dtype=torch.float64)
            for first in range(4 if kind else 6):
                cells = torch.arange(first, 48, 4) if kind else torch.arange(8 * first, 8 * first + 8)
                q, k = (side[cells].transpose(0, 1).flatten(0, 1) for side in (query, key))  # (S, h, d), s = i b + j
                scores = torch.einsum("shd,rhd->hsr", q, k) / 2 + attention.bias[attention.index].permute(2, 0, 1)
                weights = scores.softmax(dim=-1).unflatten(2, (8, -1)).sum(dim=2).unflatten(1, (8, -1)).mean(dim=1)
                expected[:, cells[:, None], cells] = weights
            assert torch.allclose(expected.sum(dim=-1), torch.ones(4, 48, dtype=torch.float64))
            within = (expected[:, :24, :24] + expected[:, 24:, 24:]) / 2
            assert torch.allclose(relations[0, 4 * kind : 4 * kind + 4], within, atol=1e-12)


def test_the_joint_between_the_shoulders_of_ntu_is_not_read():
    encoder = build("ntu", persons=2, **SLIM).eval()
    x = torch.randn(1, 3, 64, 25, 2, requires_grad=True)
    encoder(x)[0, 0].backward()
    used = x.grad.abs().amax(dim=(0, 1, 2, 4)) > 0
    assert used.logical_not().nonzero().flatten().tolist() == [20]


def test_an_absent_person_enters_alike_in_all_clips_and_sees_the_other():
    encoder = build("ntu", persons=2, **SLIM).eval()
    x = torch.randn(2, 3, 64, 25, 2)
    x[..., 1] = 0
    with torch.no_grad():
        embedded = encoder.embedding(x, None)
        assert torch.equal(embedded[0, 24:], embedded[1, 24:])
        assert embedded[0, 24:].abs().min() > 0
        features = encoder.features(x)[:, 1]
        assert largest_difference(features[:1], features[1:]) > 1e-3


def test_joints_of_ones_own_skeleton():
    names = tuple(f"joint {number}" for number in range(20))
    parts = {"left": (0, 1, 2), "middle": (9, 8, 7), "right": (3, 4, 5)}
    own = replace(get_skeleton("nw-ucla"), joint_names=names, parts=parts)
    encoder = build_encoder("skateformer", skeleton=own, num_classes=3, num_persons=2, **SLIM).eval()
    assert encoder.feature_shape == (64, 8, 9)
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, 64, 20, 2)).isfinite().all()
    with pytest.raises(EncoderError, match=r"SkateFormer: parts: .* must be of equal size"):
        build_encoder("skateformer", skeleton=replace(own, parts=parts | {"head": (12,)}), num_classes=3)


@pytest.mark.parametrize(("window", "fitting"), [(52, 64), (65, 128), (1, 64)])
def test_windows_that_cannot_be_halved_are_refused(window, fitting):
    message = f"window: SkateFormer takes clips of a multiple of 64 frames, got {window}; set data.window to {fitting}"
    with pytest.raises(EncoderError, match=message):
        build(window=window)


def test_longer_clips():
    encoder = build(window=128, **SLIM).eval()
    with torch.no_grad():
        assert encoder.features(torch.randn(1, 3, 128, 20, 1)).shape == (1, 1, 64, 16, 20)


def test_a_frame_index_of_another_shape_is_refused():
    with pytest.raises(EncoderError, match=r"frame_index has shape \(64,\), expected \(N, T\) = \(2, 64\)"):
        build(**SLIM)(torch.randn(2, 3, 64, 20, 1), frame_index=torch.zeros(64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_channels": 48}, "base_channels: must be a multiple of 32, got 48; try 32"),
        ({"mlp_ratio": 0}, "mlp_ratio: must be an integer >= 1, got 0"),
        ({"drop_path": 1.0}, "drop_path: must be a probability"),
        ({"attention_dropout": -0.1}, "attention_dropout: must be a probability"),
        ({"label_smoothing": 1.0}, "label_smoothing: must be a probability"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        build(**options)
