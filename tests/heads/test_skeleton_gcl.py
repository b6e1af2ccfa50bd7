"""SkeletonGCL: the numbers of the released code, and what is frozen stays so."""

from __future__ import annotations

import math

import pytest
import torch

import csre.contrast
from csre.ranks import ALONE
from csre.sampling import Selection
from heads import Moment
from heads.csre_options import NegativesOptions, PositivesOptions
from heads.skeleton_gcl import SkeletonGCLHead
from heads.skeleton_gcl_options import SkeletonGCLOptions
from model.encoder import Observed
from tests.heads.fixtures import close, load, part, rule
from tests.heads.shown import ShowingEncoder

FIRST = Moment(epoch=1, step=1, steps=1)
CASES = ["grow", "warm", "exact", "none_valid", "full"]


@pytest.fixture(scope="module")
def fixture(shared):
    return load(shared / "parity" / "heads" / "skeleton_gcl.npz")


def give_random_negatives(monkeypatch, head, positions):
    """Let each clip's random negatives be those at the given positions in the list of its negatives, by index."""
    bank = head.contrast.banks["graph"]
    order = bank.labels.argsort(stable=True)  # the index of each row
    choose = csre.contrast.choose

    def chosen(similarity, anchors, options, draws):
        choice = choose(similarity, anchors, options, draws)
        rows = torch.zeros_like(positions)
        row_of = order.argsort()
        for clip, (first, count) in enumerate(zip(anchors.first_row[0], anchors.num_rows[0], strict=True)):
            own_class = torch.zeros_like(bank.written)
            own_class[first : first + count] = True
            negatives = (bank.written & ~own_class)[row_of].nonzero().flatten()
            if positions[clip, 0] >= 0:
                rows[clip] = row_of[negatives[positions[clip]]]
        return choice._replace(random_negatives=Selection(rows[None], positions[None] >= 0))  # of the only branch

    monkeypatch.setattr(csre.contrast, "choose", chosen)


def build(labels, facts, shape, classes=None, **options):
    """The head for relations of this shape, in double precision, with the fixture's weights."""
    encoder = ShowingEncoder.of(relation_shape=shape, num_classes=classes or facts["classes"])
    head = SkeletonGCLHead(
        encoder,
        labels,
        SkeletonGCLOptions(
            temperature=facts["temperature"],
            dim=facts["dim"],
            positives=PositivesOptions(facts["positives"], 0),
            negatives=NegativesOptions(facts["negatives"], facts["negatives"]),
            **options,
        ),
    ).double()
    with torch.no_grad():
        head.projection.weight.copy_(rule("trans.weight", head.projection.weight.shape, facts["weight_seed_xor"]))
        head.projection.bias.copy_(rule("trans.bias", head.projection.bias.shape, facts["weight_seed_xor"]))
    return head


def fill(head, rows, written):
    """Give the bank a state in the order of the training indices; unwritten rows keep what they have."""
    bank = head.contrast.banks["graph"]
    order = bank.labels.argsort(stable=True)
    bank.rows.copy_(rows[order])
    bank.written.copy_(written[order])


def ruled_bank(facts, classes, written):
    import numpy as np

    rng = np.random.default_rng(facts["seed"])
    labels = rng.integers(0, classes, facts["slots"])
    rows = rng.standard_normal((facts["slots"], facts["dim"]))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy(labels), torch.from_numpy(rows), torch.from_numpy(rng.random(facts["slots"]) < written)


def step(head, relations, labels, indices):
    projected = head.project(Observed(torch.empty(0), {}, relations))
    return head.losses(projected, torch.empty(0), labels, indices, FIRST, ALONE, torch.Generator())["graph"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("projection", ["frozen", "trained"])
def test_loss_gradients_and_bank_are_the_released_ones(fixture, monkeypatch, case, projection):
    meta, arrays = fixture
    facts, expected = meta["loss"][case], part(arrays, f"loss/{case}")
    if "bank_before" not in expected:
        _, expected["bank_before"], _ = ruled_bank(facts, facts["classes"], facts["written"])
    head = build(expected["slot_labels"], facts, (1, 1, facts["inputs"]), projection=projection)
    fill(head, expected["bank_before"], expected["written_before"])
    bank = head.contrast.banks["graph"]
    order = bank.labels.argsort(stable=True)
    for number, (g, labels, indices) in enumerate(
        zip(expected["g"], expected["labels"], expected["index"], strict=True)
    ):
        relations = g.double().unflatten(1, (1, 1, -1)).requires_grad_()
        head.zero_grad()
        with monkeypatch.context() as patch:
            give_random_negatives(patch, head, expected["random_positions"][number])
            loss = step(head, relations, labels, indices)
        loss.backward()
        close(loss, expected["loss"][number], 1e-12)
        close(head.metrics()["active_graph"], expected["valid"][number].double().mean(), 1e-6)
        close(relations.grad.flatten(1), expected["grad_g"][number], 1e-10)
        assert torch.equal(bank.written, expected["written_after"][number][order])
        close(bank.rows[bank.rows_of(indices)], expected["rows_after"][number], 1e-12)
        if "bank_after" in expected:
            close(bank.rows, expected["bank_after"][number][order], 1e-12)
        if projection == "trained":
            close(head.projection.bias.grad, expected["grad_bias"][number], 1e-10)
            close(head.projection.weight.grad.norm(), expected["grad_weight_norm"][number], 1e-10)
            if "grad_weight" in expected:
                close(head.projection.weight.grad, expected["grad_weight"][number], 1e-10)


def test_a_frozen_projection_has_no_parameters():
    shape = (3, 20, 20)
    facts = {"classes": 10, "temperature": 0.8, "dim": 256, "positives": 1, "negatives": 1, "weight_seed_xor": 0}
    frozen = build([0, 1], facts, shape)
    assert not list(frozen.parameters())
    assert sum(parameter.numel() for parameter in build([0, 1], facts, shape, projection="trained").parameters()) == (
        307_456
    )


def test_the_projection_starts_as_released():
    torch.manual_seed(0)
    head = SkeletonGCLHead(
        ShowingEncoder.of(relation_shape=(3, 20, 20), num_classes=10), torch.tensor([0, 1]), SkeletonGCLOptions()
    )
    assert head.projection.weight.shape == (256, 1200)
    assert head.projection.weight.std().item() == pytest.approx(math.sqrt(2 / 10), rel=0.01)
    assert head.projection.bias.count_nonzero() == 0


def test_relations_are_flattened_subset_by_subset_and_row_by_row():
    facts = {"classes": 2, "temperature": 0.8, "dim": 4, "positives": 1, "negatives": 1, "weight_seed_xor": 0}
    head = build([0, 1], facts, (2, 3, 3))
    relations = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    flat = torch.stack([relations[0, k, u, v] for k in range(2) for u in range(3) for v in range(3)])
    expected = torch.nn.functional.normalize(head.projection.weight @ flat + head.projection.bias, dim=0)
    torch.testing.assert_close(head.project(Observed(torch.empty(0), {}, relations))["graph"][0], expected)


def test_the_whole_state_is_gathered_and_loaded():
    facts = {"classes": 2, "temperature": 0.8, "dim": 4, "positives": 1, "negatives": 1, "weight_seed_xor": 0}
    labels = torch.tensor([0, 1, 0, 1])
    head, other = (build(labels, facts, (1, 2, 2)) for _ in range(2))
    other.projection.weight.zero_()
    step(head, torch.randn(4, 1, 2, 2, dtype=torch.float64), labels, torch.arange(4))
    state = head.gathered_state_dict()
    other.load_state_dict(state)
    assert state.keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())
    assert head.contrast.banks["graph"].written.all()


@pytest.mark.parametrize("projection", ["frozen", "trained"])
def test_half_precision_does_not_reach_large_relations(projection):
    facts = {"classes": 2, "temperature": 0.8, "dim": 4, "positives": 1, "negatives": 1, "weight_seed_xor": 0}
    head = build([0, 1], facts, (1, 3, 3), projection=projection).float()
    relations = torch.linspace(-2e5, 1e5, 18).unflatten(0, (2, 1, 3, 3))  # float16 ends at 65504
    expected = head.project(Observed(torch.empty(0), {}, relations))["graph"]
    assert (expected.norm(dim=1) - 1).abs().max() < 1e-6
    for half in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", half):
            assert torch.equal(head.project(Observed(torch.empty(0), {}, relations))["graph"], expected)
