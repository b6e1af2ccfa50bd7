"""The batched contrast against the plain loop: random cases, every sampling mix, whole steps.

The loop itself is checked against the released code's numbers in test_parity.py.
"""

import itertools

import pytest
import torch

from csre import CSRE, ContrastOptions, Counts, MemoryBank
from csre.contrast import compare_at_once, losses_of_queries
from csre.loss import mean_over_active, normalise_rows
from csre.memory_bank import Anchors
from csre.sampling import WHOLE_BATCH, active_anchors
from tools.benchmark.plain_contrast import reference_contrast

SAMPLING = [Counts(3, 0), Counts(0, 3), Counts(3, 2)]


def random_options(rng):
    def pick(values):
        return values[int(torch.randint(len(values), (), generator=rng))]

    denominator = pick(("joint", "split"))
    return ContrastOptions(
        temperature=pick((0.07, 0.5, 0.8, 1.0)),
        positives=pick((*SAMPLING, Counts(6, 0))),
        negatives=pick((*SAMPLING, Counts(8, 8))),
        denominator=denominator,
        positive_reduction=pick(("mean", "sum")),
        repeated_negatives=pick(("twice", "once")) if denominator == "joint" else "twice",
        own_row=pick(("exclude", "include")),
        too_few=pick(("use", "use", "skip")),
    )


def compare(seed, options):
    """Contrast one random batch both ways; return what the case contained.

    Which of several equal rows is taken does not matter to a loss, unless it also decides whether a random negative was
    already taken as a hard one: such cases hold no ties.
    """
    rng = torch.Generator().manual_seed(seed)

    def integers(low, high, count):
        return torch.randint(low, high, (count,), generator=rng)

    classes, slots, dim, clips = (int(integers(low, high, 1)) for low, high in ((2, 6), (6, 60), (3, 9), (1, 10)))
    slot_labels = integers(0, classes, slots)
    rows = normalise_rows(torch.randn(slots, dim, dtype=torch.float64, generator=rng))
    features = torch.randn(clips, dim, dtype=torch.float64, generator=rng)
    indices = integers(0, slots, clips)  # with repetitions
    ties = options.repeated_negatives == "twice" and seed % 2 == 0
    if ties:
        rows = rows[integers(0, max(2, slots // 3), slots)]
        features = features[integers(0, clips, clips)]
    written = torch.rand(slots, generator=rng) < (0.1, 0.6, 1.0)[seed % 3]
    rows[~written] = 7.0  # what must not count

    order = slot_labels.argsort(stable=True)
    bank = MemoryBank(slot_labels, dim, torch.float64)
    bank.rows.copy_(rows[order])
    bank.written.copy_(written[order])
    labels = slot_labels[indices]
    batched = features.clone().requires_grad_()
    unit = normalise_rows(batched)
    bank.write(unit, labels, indices)
    anchors = Anchors.stacked([bank.anchors(unit, labels, indices)])
    compared = compare_at_once([unit.detach()], anchors, [bank], options, WHOLE_BATCH)
    (losses,) = losses_of_queries([unit], compared, [bank], options)
    (are_active,) = active_anchors(anchors, options)
    loss = mean_over_active(losses, are_active, are_active.sum())
    loss.backward()

    def slots_of(selection, first=0):
        return [
            order[row[first:][valid[first:]]].tolist()
            for row, valid in zip(selection.rows[0], selection.valid[0], strict=True)
        ]

    num_hard = min(options.positives.hard, anchors.longest_class)
    drawn_positives, drawn_negatives = (
        slots_of(compared.choice.positives, num_hard),
        slots_of(compared.choice.random_negatives),
    )
    looped = features.clone().requires_grad_()
    expected, active = reference_contrast(
        looped, labels, indices, rows, written, slot_labels, options, drawn_positives, drawn_negatives
    )
    expected.backward()

    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(batched.grad, looped.grad, rtol=1e-10, atol=1e-10)
    assert are_active.nonzero().flatten().tolist() == active
    assert torch.equal(bank.written, written[order])
    torch.testing.assert_close(bank.rows, rows[order], rtol=0, atol=1e-15)
    for label, index, positives, negatives in zip(labels, indices, drawn_positives, drawn_negatives, strict=True):
        own_class = written & (slot_labels == label)
        own_class[index] = False
        _check_draw(positives, own_class, options.positives.random)
        _check_draw(negatives, written & (slot_labels != label), options.negatives.random)
    return {
        "ties": ties,
        "repeated index": len(indices.unique()) < clips,
        "unwritten": not written.all(),
        "few positives": bool((anchors.written_in_class <= options.positives.hard).any()),
        "none active": not active,
        "some active": bool(active) and len(active) < clips,
    }


def _check_draw(drawn, allowed, count):
    assert len(set(drawn)) == len(drawn) == min(count, int(allowed.sum()))
    assert allowed[drawn].all()


def test_two_hundred_random_cases():
    seen = [compare(seed, random_options(torch.Generator().manual_seed(10_000 + seed))) for seed in range(200)]
    for kind in seen[0]:
        assert sum(case[kind] for case in seen) >= 10, f"too few cases with: {kind}"


@pytest.mark.parametrize("denominator", ["joint", "split"])
@pytest.mark.parametrize(("positives", "negatives"), list(itertools.product(SAMPLING, SAMPLING)))
def test_every_sampling_mix(positives, negatives, denominator):
    """The paper's Table 6: hard, random, and both, of positives and of negatives."""
    options = ContrastOptions(positives=positives, negatives=negatives, denominator=denominator)
    for seed in range(4):
        compare(seed, options)


@pytest.mark.parametrize("branches", [("spatial",), ("temporal",), ("spatial", "temporal"), ("global",)])
def test_training_steps_of_every_branch(branches):
    """The paper's Table 5, from the encoder's map to the head's gradient, over steps that fill the bank.

    The random negatives are all negatives there are, which leaves nothing to chance.
    """
    torch.manual_seed(0)
    slot_labels = torch.randint(0, 3, (20,))
    csre = CSRE((8, 5, 4), slot_labels, dim=6, branches=branches, positives=(4, 0), negatives=(5, 20)).double()
    loop_bank = {name: torch.zeros(20, 6, dtype=torch.float64) for name in branches}
    loop_written = {name: torch.zeros(20, dtype=torch.bool) for name in branches}
    actives = []
    for _ in range(5):
        indices = torch.randint(0, 20, (7,))
        labels = slot_labels[indices]
        features = torch.randn(7, 2, 8, 5, 4, dtype=torch.float64)
        csre.zero_grad()
        losses = csre(features, labels, indices)
        assert list(losses) == list(branches)
        sum(losses.values()).backward()
        gradients = {name: head.reduce.weight.grad.clone() for name, head in csre.heads.items()}
        csre.zero_grad()
        for name, head in csre.heads.items():
            every_negative = [
                ((loop_written[name] | torch.isin(torch.arange(20), indices)) & (slot_labels != label)).nonzero()[:, 0]
                for label in labels
            ]
            expected, active = reference_contrast(
                head(features),
                labels,
                indices,
                loop_bank[name],
                loop_written[name],
                slot_labels,
                csre.options,
                random_positives=[[]] * 7,
                random_negatives=[negatives.tolist() for negatives in every_negative],
            )
            expected.backward()
            torch.testing.assert_close(losses[name], expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(gradients[name], head.reduce.weight.grad, rtol=1e-10, atol=1e-10)
            assert csre.active_share[name].item() == pytest.approx(len(active) / 7)
            actives.append(len(active))
    assert max(actives) == 7


def test_the_loop_draws_for_itself():
    torch.manual_seed(0)
    slot_labels = torch.arange(12) % 2
    features = torch.randn(4, 5, requires_grad=True)
    bank, written = normalise_rows(torch.randn(12, 5)), torch.ones(12, dtype=torch.bool)
    options = ContrastOptions(positives=Counts(0, 2), negatives=Counts(0, 3))
    loss, active = reference_contrast(features, slot_labels[:4], torch.arange(4), bank, written, slot_labels, options)
    # Three negatives and one positive, cosines between -1 and 1.
    low, high = (torch.log1p(3 * torch.tensor(sign * 2 / 0.8).exp()) for sign in (-1, 1))
    assert low < loss < high
    assert active == [0, 1, 2, 3]
