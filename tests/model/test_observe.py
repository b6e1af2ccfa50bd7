"""What encoders show to training heads: shapes from the specification, relations against definition and fixtures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from graph import get_skeleton
from model import EncoderError, build_encoder, fitting_window, list_encoders
from model.published_weights import load_published_weights
from tests.heads.fixtures import close, load, part, rule
from tests.model.parity import Fixture
from tests.model.slim import slim

USUAL_STAGES = {"low": (64, 52), "mid": (128, 26), "high": (256, 13), "fin": (256, 13)}
STAGES = dict.fromkeys([name for name in list_encoders() if name not in ("hcn", "tacnn")], USUAL_STAGES) | {
    "blockgcn": USUAL_STAGES | {"low": (128, 52), "mid": (256, 26)},
    "hypergcn": USUAL_STAGES | {"low": (128, 52), "mid": (256, 26)},
    "hyperformer": {"low": (216, 52), "mid": (216, 26), "high": (216, 13), "fin": (216, 13)},
    "skateformer": {"low": (96, 64), "mid": (192, 32), "high": (192, 16), "fin": (192, 8)},
}
"""(C, T) of the stages for NW-UCLA's clips of 52 frames, or 64."""
STAGE_BLOCKS = dict.fromkeys(
    [name for name in STAGES if name != "skateformer"], ("l1", "l5", "l8", "l10")
) | dict.fromkeys(("hypergcn", "infogcn"), ("l1", "l4", "l7", "l9"))
"""Of encoders that compute the persons apart; SkateFormer's stages and relations are compared in its own tests."""
SUBSETS = {"agcn": 3, "ctrgcn": 3, "hypergcn": 8, "hyperformer": 9, "infogcn": 3}


def build(name, window, persons=1):
    torch.manual_seed(0)
    return build_encoder(
        name,
        skeleton=get_skeleton("nw-ucla"),
        num_classes=5,
        num_persons=persons,
        window=fitting_window(name, window),
        **slim(name),
    )


def unsettled(encoder):
    """The encoder with random values where training begins at zero or alike, so that every part acts."""
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith(("alpha", "rpe", "w1", "bias", "refine_bias", "virtual_joints")):
                parameter.normal_(0, 0.3)
            if name.endswith("embed.weight"):
                parameter.mul_(0.003)  # distances near 1, so that more than the nearest point counts
    return encoder.double()


def clips(encoder, number=2):
    return torch.randn(number, 3, encoder.window, 20, encoder.num_persons, dtype=torch.float64)


@pytest.mark.parametrize("name", STAGES)
def test_shapes(name):
    window = fitting_window(name, 52)
    encoder = build_encoder(name, skeleton=get_skeleton("nw-ucla"), num_classes=5, num_persons=1, window=window)
    assert encoder.stage_shapes == {stage: (*shape, 20) for stage, shape in STAGES[name].items()}
    subsets = 16 if name == "skateformer" else SUBSETS.get(name)
    assert encoder.relation_shape == (subsets and (subsets, 20, 20))
    assert encoder.shows == {"features", "stages"} | ({"relations"} if subsets else set())


def test_what_has_no_joints_or_no_relations_of_a_clip_shows_none():
    for name in ("hcn", "tacnn"):
        assert build(name, 52).shows == {"features"}
    for name, what in (("hcn", "stages"), ("hcn", "relations"), ("blockgcn", "relations")):
        with pytest.raises(EncoderError, match=f"shows no {what}"):
            build(name, 52).observe(torch.zeros(2, 3, 52, 20, 1), reads=[what])


@pytest.mark.parametrize("window", [8, 7, 1])
@pytest.mark.parametrize("name", STAGES)
def test_observed_shapes_are_the_promised_ones(name, window):
    encoder = build(name, window, persons=2).eval()
    observed = encoder.observe(torch.randn(3, 3, encoder.window, 20, 2), reads=encoder.shows)
    assert observed.features.shape == (3, 2, *encoder.feature_shape)
    assert list(observed.stages) == ["low", "mid", "high", "fin"]
    assert {stage: tuple(x.shape[2:]) for stage, x in observed.stages.items()} == dict(encoder.stage_shapes)
    if encoder.relation_shape is not None:
        assert observed.relations.shape == (3, *encoder.relation_shape)


@pytest.mark.parametrize("name", STAGES)
def test_observing_changes_nothing_and_shows_nothing_that_is_not_asked_for(name):
    encoder = unsettled(build(name, 8, persons=2)).eval()
    x = clips(encoder)
    plain, full = encoder.observe(x), encoder.observe(x, reads=encoder.shows)
    assert torch.equal(plain.features, full.features)
    assert torch.equal(encoder.features(x), full.features)
    assert not plain.stages
    assert plain.relations is None
    assert torch.equal(full.stages["fin"], full.features)


@pytest.mark.parametrize("name", STAGE_BLOCKS)
def test_stages_are_what_the_blocks_put_out(name):
    encoder = unsettled(build(name, 8, persons=2)).eval()
    outputs = {}
    for block in STAGE_BLOCKS[name]:
        encoder.blocks[block].register_forward_hook(
            lambda _, __, output, block=block: outputs.__setitem__(block, output)
        )
    stages = encoder.observe(clips(encoder), reads=["stages"]).stages
    for stage, block in zip(stages.values(), STAGE_BLOCKS[name], strict=True):
        assert stage.min() >= 0
        expected = outputs[block].unflatten(0, (2, 2)).transpose(-1, -2)
        assert torch.equal(stage, expected)


@pytest.mark.parametrize("name", SUBSETS)
def test_relations_are_the_mean_over_the_persons(name):
    encoder = unsettled(build(name, 8, persons=2)).eval()
    x = clips(encoder, 1)
    swapped = x.flip(-1)
    given = encoder.observe(x, reads=["relations"]).relations
    assert given.shape[0] == 1
    both = [block_input_relations(encoder, x), block_input_relations(encoder, swapped)]
    torch.testing.assert_close(given, both[0].unflatten(0, (1, 2)).mean(dim=1))
    assert not torch.allclose(both[0][0], both[0][1])


def block_input_relations(encoder, x):
    """Relations of each skeleton, by definition, from the input of the last block."""
    block = next(reversed(encoder.blocks.values()))
    inputs = []
    handle = block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    encoder(x)
    handle.remove()
    return BY_DEFINITION[type(encoder).__name__](block, inputs[0])


def ctrgcn_relations(block, x):
    gcn, mean = block.gcn, x.mean(dim=3)
    rows = gcn.relation(mean).unflatten(1, (2, 3, -1))
    difference = torch.tanh(rows[:, 0, ..., :, None] - rows[:, 1, ..., None, :])
    refined = torch.einsum("kcr,nkruv->nkcuv", gcn.refine_weight, difference) + gcn.refine_bias[..., None, None]
    return refined.mean(dim=2)


def agcn_relations(block, x):
    a, b = block.gcn.embeddings(x).unflatten(1, (2, 3, -1)).unbind(1)
    return torch.einsum("nkeut,nkevt->nkuv", a, b)


def infogcn_relations(block, x):
    gcn = block.gcn
    q, k = gcn.to_qk(gcn.norm(x.permute(0, 3, 2, 1))).unflatten(-1, (2, 3, -1)).unbind(-3)
    return torch.einsum("ntihd,ntjhd->nthij", q, k).mean(dim=1) / math.sqrt(q.shape[-1])


def hyperformer_relations(block, x):
    attention = block.attention
    rows = x.permute(0, 3, 2, 1)
    q, k, _ = attention.to_qkv(attention.norm(rows)).unflatten(-1, (3, 9, -1)).unbind(-3)
    share = attention.membership / attention.membership.sum(dim=0)
    e = attention.membership @ attention.to_groups(share.T @ rows)
    e = e.unflatten(-1, (9, -1))
    rpe = attention.rpe[attention.hops].unflatten(-1, (9, -1))
    scores = torch.einsum("ntihd,ntjhd->nthij", q, k + e) + torch.einsum("ntihd,ijhd->nthij", q, rpe)
    scores = scores + torch.einsum("hd,ntjhd->nthj", attention.w1, e)[..., None, :]
    return scores.mean(dim=1) / math.sqrt(q.shape[-1])


def hypergcn_relations(block, x):
    gcn = block.gcn
    points = torch.cat([x.mean(dim=3), gcn.virtual_joints.T.expand(len(x), -1, -1)], dim=2)
    q = gcn.embed(points).unflatten(1, (8, -1))
    distances = torch.linalg.vector_norm(q.unsqueeze(-1) - q.unsqueeze(-2), dim=2)
    far = distances.argsort(dim=-1).argsort(dim=-1) >= 9
    incidence = (-distances).masked_fill(far, -math.inf).softmax(dim=-1)
    weights = torch.tanh(gcn.weigh(points))
    rows = incidence * weights.unsqueeze(-2)
    rows = rows / rows.abs().sum(dim=-1, keepdim=True)
    edges = weights / incidence.sum(dim=-2)
    return torch.einsum("nkue,nke,nkve->nkuv", rows, edges, incidence)[..., : x.shape[2], : x.shape[2]]


BY_DEFINITION = {
    "AGCN": agcn_relations,
    "CTRGCN": ctrgcn_relations,
    "HyperGCN": hypergcn_relations,
    "Hyperformer": hyperformer_relations,
    "InfoGCN": infogcn_relations,
}


@pytest.mark.parametrize("name", SUBSETS)
def test_gradient_of_relations_reaches_the_encoder(name):
    encoder = unsettled(build(name, 8))
    encoder.observe(clips(encoder), reads=["relations"]).relations.square().sum().backward()
    grad = encoder.blocks["l1"].tcn.bn.weight.grad
    assert (grad != 0).any()


@pytest.mark.parametrize(
    ("name", "layers"), [("ctrgcn", {"relation", "refine_weight", "refine_bias"}), ("agcn", {"embeddings"})]
)
def test_of_the_last_block_only_the_layers_behind_the_relations_get_a_gradient(name, layers):
    encoder = unsettled(build(name, 8))
    encoder.observe(clips(encoder), reads=["relations"]).relations.square().sum().backward()
    reached = {entry for entry, parameter in encoder.blocks["l10"].named_parameters() if parameter.grad is not None}
    assert {entry.removeprefix("gcn.").partition(".")[0] for entry in reached} == layers
    assert encoder.fc.linear.weight.grad is None


@pytest.mark.parametrize("name", ["blockgcn", "ctrgcn"])
def test_one_image_of_all_skeletons_shows_the_same(name, monkeypatch):
    encoder = unsettled(build(name, 8, persons=2)).eval()
    x = clips(encoder)
    expected = encoder.observe(x, reads=encoder.shows)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)  # the layout alone, in double precision
    torch.testing.assert_close(encoder.observe(x, reads=encoder.shows), expected)


@pytest.mark.parametrize("case", ["ctrgcn_ucla", "ctrgcn_ntu", "agcn_ucla"])
def test_relations_equal_the_published_ones(shared, case):
    meta, arrays = load(shared / "parity" / "heads" / "skeleton_gcl.npz")
    meta = meta["end"][case]
    name, graph = case.split("_")
    fixture = Fixture(shared / "parity" / "encoders" / f"{name}_{graph}.npz", name, graph)
    expected = part(arrays, f"end/{case}")
    built = meta["constructor"]
    encoder = build_encoder(
        name,
        skeleton=get_skeleton({"ucla": "nw-ucla", "ntu": "ntu"}[graph]),
        num_classes=built["num_class"],
        num_persons=built["num_person"],
        window=meta["frames"],
    )
    state = {key: rule(key, shape, meta["weight_seed_xor"]) for key, shape, _ in fixture.keys}
    state |= {key: torch.from_numpy(arrays[f"end/{case}/graph/A"]) for key in state if key in meta["kept"]}
    for key in ("fc.weight", "fc.bias"):
        state[key] = rule(key, (built["num_class"], *state[key].shape[1:]), meta["weight_seed_xor"])
    load_published_weights(encoder, state)
    encoder.double()
    for step in range(meta["steps"]):
        shape = (meta["clips"], 3, meta["frames"], built["num_point"], built["num_person"])
        x = np.random.default_rng(meta["seed"] + 100 + step).standard_normal(shape).astype(np.float32)
        if built["num_person"] == 2:
            x[1, ..., 1] = 0
        observed = encoder.observe(torch.from_numpy(x).double(), reads=["relations"])
        close(observed.relations, expected["relations"][step], 1e-9)
        close(encoder.classify(observed.features), expected["logits"][step], 1e-9)
