"""ACLNet's losses: the numbers of the released code, and what its rules say about memory and families."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from csre.ranks import ALONE
from heads import HeadError, Moment
from heads.acl import ACLHead, Remembered, build_families, count_confusions, intra_class_loss
from heads.acl_options import ACLOptions
from model.encoder import Observed
from tests.heads.fixtures import close, load, normal, part, rule
from tests.heads.shown import ShowingEncoder

INTRA = ["grow", "no_positive", "options", "full"]
INTER = ["schedule", "few_classes", "theta", "crowd", "full"]


@pytest.fixture(scope="module")
def fixture(shared):
    return load(shared / "parity" / "heads" / "aclnet.npz")


def build(joints_squared, classes, facts, **options):
    """The head in double precision with the fixture's weights; the relations are one number per pair of joints."""
    joints = round(joints_squared**0.5)
    encoder = ShowingEncoder.of(relation_shape=(1, joints, joints), num_classes=classes)
    head = ACLHead(encoder, torch.zeros(1), ACLOptions(dim=facts["dim"], **options)).double()
    for name, layer in head.trained.named_children():
        for kind, parameter in layer.named_parameters():
            value = rule(f"{name}_loss.cl_fc.{kind}", parameter.shape, facts["weight_seed_xor"])
            parameter.data.copy_(value)
    return head


def step(head, g, labels, logits, epoch=1, number=1):
    """The losses of graph vectors (N, V * V) divided by their weights, and their gradients by loss."""
    joints = round(g.shape[1] ** 0.5)
    relations = g.double().clone().requires_grad_()
    observed = Observed(torch.empty(0), {}, relations.unflatten(1, (1, joints, joints)))
    losses = head.losses(
        head.project(observed), logits, labels, labels, Moment(epoch, number, 9), ALONE, torch.Generator()
    )
    return {name.removeprefix("acl_"): 10 * loss for name, loss in losses.items()}, relations


@pytest.mark.parametrize("case", INTRA)
def test_the_loss_within_classes_is_the_released_one(fixture, case):
    meta, arrays = fixture
    facts, expected = meta["intra"][case], part(arrays, f"intra/{case}")
    head = build(
        facts["inputs"],
        facts["classes"],
        facts,
        memory=facts["memory"],
        temperature=facts["temperature"],
        epsilon=facts["epsilon"],
    )
    if case == "full":
        rng = np.random.default_rng(facts["seed"])
        rows = facts["memory"] - facts["clips"]
        labels = torch.from_numpy(rng.integers(0, facts["classes"], rows))
        drawn = rng.standard_normal((rows, facts["dim"]))
        head.memory[-rows:] = torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
        head.memory_labels[-rows:] = labels
        assert torch.equal(labels, expected["memory_labels_before"])
    layer = head.trained["intra"]
    for number, (g, labels) in enumerate(zip(expected["g"], expected["labels"], strict=True)):
        head.zero_grad()
        losses, relations = step(head, g, labels, torch.zeros(len(g), facts["classes"], dtype=torch.float64))
        losses["intra"].backward()
        held = head.memory_labels >= 0
        close(losses["intra"], expected["loss"][number], 1e-12)
        close(relations.grad, expected["grad_g"][number], 1e-10)
        close(layer.bias.grad, expected["grad_bias"][number], 1e-10)
        close(layer.weight.grad.norm(), expected["grad_weight_norm"][number], 1e-10)
        assert held.sum() == expected["memory_size_after"][number]
        close(head.memory[-len(g) :], expected["newest_rows"][number], 1e-12)
        if "memory_after" in expected:
            size = int(held.sum())
            close(layer.weight.grad, expected["grad_weight"][number], 1e-10)
            close(head.memory[held], expected["memory_after"][number][:size], 1e-12)
            assert torch.equal(head.memory_labels[held], expected["memory_labels_after"][number][:size])


@pytest.mark.parametrize("case", INTER)
def test_the_loss_between_classes_is_the_released_one(fixture, case):
    meta, arrays = fixture
    facts, expected = meta["inter"][case], part(arrays, f"inter/{case}")
    head = build(
        facts["inputs"],
        facts["classes"],
        facts,
        memory=facts["clips"],
        momentum=facts["mom"],
        threshold=facts["pred_threshold"],
        count_epoch=facts["start_epoch"],
    )
    head.prototypes.copy_(normal("inter_loss.avg_f", head.prototypes.shape, facts["weight_seed_xor"]))
    if "counts_before" in expected:
        head.counts.copy_(expected["counts_before"])
    layer = head.trained["inter"]
    for number, epoch in enumerate(expected["epoch"].tolist()):
        head.zero_grad()
        losses, relations = step(
            head, expected["g"][number], expected["labels"][number], expected["logits"][number], epoch
        )
        losses["inter"].backward()
        assert torch.equal(head.counts, expected["counts_after"][number].long())
        families = head.families if expected["active"][number] else torch.zeros_like(head.families)
        assert torch.equal(families, expected["families"][number].bool())
        close(losses["inter"], expected["loss"][number], 1e-12)
        close(relations.grad, expected["grad_g"][number], 1e-10)
        close(layer.bias.grad, expected["grad_bias"][number], 1e-10)
        close(layer.weight.grad.norm(), expected["grad_weight_norm"][number], 1e-10)
        if "grad_weight" in expected:
            close(layer.weight.grad, expected["grad_weight"][number], 1e-10)
        if "prototypes_after" in expected:
            close(head.prototypes, expected["prototypes_after"][number], 1e-12)
        close(head.prototypes.norm(dim=1), expected["prototype_norms"][number], 1e-12)
    last = expected["prototypes_last"]
    close(head.prototypes[:, : last.shape[1]], last, 1e-12)


def test_the_memory_is_first_in_first_out_without_what_is_not_finite():
    memory = Remembered(torch.zeros(4, 1), torch.full((4,), -1))
    for values, expected in (
        ([1.0, 2.0], [-1, -1, 1, 2]),
        ([3.0, float("nan")], [-1, 1, 2, 3]),
        ([4.0, 5.0, 6.0], [3, 4, 5, 6]),
    ):
        vectors = torch.tensor(values)[:, None]
        memory = memory.with_clips(vectors, vectors[:, 0].nan_to_num().long())
        assert memory.labels.tolist() == expected
    assert memory.rows.flatten().tolist() == [3, 4, 5, 6]


def test_a_clip_without_positives_costs_nothing():
    rows = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    memory = Remembered(rows, torch.tensor([0, 1, 2, 0]))
    loss, acts = intra_class_loss(rows[2:], torch.tensor([2, 0]), memory, ACLOptions())
    only, _ = intra_class_loss(rows[3:], torch.tensor([0]), memory, ACLOptions())
    assert acts.tolist() == [False, True]
    torch.testing.assert_close(loss, only / 2)


def test_without_margin_and_with_one_positive_it_is_the_plain_contrast():
    rows = torch.nn.functional.normalize(normal("rows", (5, 3)))
    memory = Remembered(rows, torch.tensor([1, 0, 2, 1, 0]))
    loss, _ = intra_class_loss(rows[4:], torch.tensor([0]), memory, ACLOptions(epsilon=0.0, temperature=0.5))
    scores = rows[:4] @ rows[4] / 0.5
    torch.testing.assert_close(loss, torch.logsumexp(scores, 0) - scores[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("false_positives", ["per_clip", "once"])
def test_counts_by_a_double_loop(false_positives):
    rng = torch.Generator().manual_seed(0)
    labels, predicted = (torch.randint(4, (30,), generator=rng) for _ in range(2))
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for label, taken in zip(labels.tolist(), predicted.tolist(), strict=True):
        if label != taken:
            expected[label, taken] += 1
            expected[taken, label] += int((labels == taken).sum()) if false_positives == "per_clip" else 1
    assert torch.equal(count_confusions(predicted, labels, 4, false_positives), expected)


def test_families_of_classes_without_confusions_are_one():
    families = build_families(torch.zeros(12, 12, dtype=torch.int64), "keep")
    # All share the ten lowest numbers; so each is related to every other.
    assert families[0].tolist() == [True] * 12
    assert families[11].tolist() == [True] * 11 + [False]
    assert not build_families(torch.zeros(12, 12, dtype=torch.int64), "exclude").diagonal().any()


def test_families_from_given_counts():
    """Of the ten classes of class 0, class 40 has five in common and class 41 four."""
    counts = torch.zeros(60, 60, dtype=torch.int64)
    counts[:, 10:20] = 2
    for label, first in ((0, 20), (40, 25), (41, 26)):
        counts[label] = 0
        counts[label, first : first + 10] = 5
    counts.fill_diagonal_(0)
    families = build_families(counts, "keep")
    assert families[0].nonzero().flatten().tolist() == [*range(20, 30), 40]
    assert families[40].nonzero().flatten().tolist() == [0, *range(25, 35), 41]


def test_families_are_kept_for_an_epoch_also_over_a_resumption():
    facts, classes, rng = {"dim": 3, "weight_seed_xor": 0}, 30, torch.Generator().manual_seed(0)
    head, resumed = (build(16, classes, facts, memory=40, count_epoch=1) for _ in range(2))

    def next_step(head, epoch):
        """What the families would be if they were built in this step."""
        labels = torch.randint(classes, (40,), generator=rng)
        logits = torch.randn(40, classes, generator=rng, dtype=torch.float64)
        step(head, torch.randn(40, 16, generator=rng), labels, logits, epoch)
        return build_families(head.counts, "keep")

    for _ in range(30):  # enough confusions for families of different classes
        next_step(head, 1)
    assert torch.equal(next_step(head, 2), head.families)
    resumed.load_state_dict(head.state_dict())
    assert not torch.equal(next_step(resumed, 2), head.families)
    assert torch.equal(resumed.families, head.families)
    assert torch.equal(next_step(resumed, 3), resumed.families)


def test_half_precision_does_not_reach_large_relations():
    head = build(9, 3, {"dim": 3, "weight_seed_xor": 0}, memory=4).float()
    observed = Observed(torch.empty(0), {}, torch.linspace(-2e5, 1e5, 18).unflatten(0, (2, 1, 3, 3)))
    expected = head.project(observed)
    with torch.autocast("cpu", torch.float16):
        projected = head.project(observed)
    assert expected.keys() == projected.keys() == {"inter", "intra"}
    assert all(value.isfinite().all() and torch.equal(value, expected[name]) for name, value in projected.items())


def test_a_memory_smaller_than_the_batch_is_refused():
    facts = {"dim": 3, "weight_seed_xor": 0}
    head = build(16, 3, facts, memory=4)
    with pytest.raises(HeadError, match=r"acl\.memory: 4 is less than the 5 clips"):
        step(head, torch.randn(5, 16), torch.zeros(5, dtype=torch.int64), torch.zeros(5, 3))
