"""Choosing rows: hard ones by hand-made similarities, random ones by their distribution."""

import itertools
import math

import pytest
import torch

from csre import MemoryBank
from csre.sampling import (
    Selection,
    draw_without_replacement,
    hardest_negatives,
    hardest_positives,
    random_negatives,
    random_positives,
    without_repeats,
)

#       slots    0  1  2  3  4  5  6  7
LABELS = [1, 0, 1, 2, 0, 1, 2, 1]
UNWRITTEN = [3, 7]


def bank_with_gaps():
    """Rows by class: slots 1 4 | 0 2 5 7 | 3 6; slots 3 and 7 are not written."""
    bank = MemoryBank(LABELS, 2)
    written = torch.tensor([slot for slot in range(8) if slot not in UNWRITTEN])
    bank.write(torch.ones(len(written), 2), torch.tensor(LABELS)[written], written)
    return bank


def anchors_of(bank, slots):
    slots = torch.tensor(slots)
    return bank.anchors(torch.ones(len(slots), 2), torch.tensor(LABELS)[slots], slots)


def slots_of(selection):
    order = torch.tensor(LABELS).argsort(stable=True)
    return [order[rows[valid]].tolist() for rows, valid in zip(selection.rows, selection.valid, strict=True)]


def in_rows(per_slot):
    """Similarities listed by slot, as the bank's columns."""
    return torch.tensor(per_slot)[:, torch.tensor(LABELS).argsort(stable=True)]


#                   0    1    2    3    4    5    6    7
SIMILARITY = [[1.0, 0.1, 0.9, 0.8, 0.7, -0.5, 0.3, -0.9], [0.5, 1.0, 0.2, 0.9, -0.1, 0.4, 0.6, 0.8]]
ANCHORS = [0, 1]


def test_hard_positives_are_the_least_similar_written_ones():
    anchors = anchors_of(bank_with_gaps(), ANCHORS)
    assert slots_of(hardest_positives(in_rows(SIMILARITY), anchors, 2, own_row=False)) == [[5, 2], [4]]
    assert slots_of(hardest_positives(in_rows(SIMILARITY), anchors, 9, own_row=True)) == [[5, 2, 0], [4, 1]]
    assert slots_of(hardest_positives(in_rows(SIMILARITY), anchors, 0, own_row=True)) == [[], []]


def test_hard_negatives_are_the_most_similar_written_ones():
    anchors = anchors_of(bank_with_gaps(), ANCHORS)
    assert slots_of(hardest_negatives(in_rows(SIMILARITY), anchors, 2)) == [[4, 6], [6, 0]]
    assert slots_of(hardest_negatives(in_rows(SIMILARITY), anchors, 99)) == [[4, 6, 1], [6, 0, 5, 2]]


def counted(selections):
    counts = torch.zeros(len(LABELS))
    for slots in selections:
        assert len(set(slots)) == len(slots)
        counts[slots] += 1
    return counts / len(selections)


def test_random_negatives_are_uniform_over_written_rows_of_other_classes():
    torch.manual_seed(0)
    draws = slots_of(random_negatives(anchors_of(bank_with_gaps(), [0, 1, 6] * 4000), 2))
    for start, allowed in ((0, [1, 4, 6]), (1, [0, 2, 5, 6]), (2, [0, 1, 2, 4, 5])):
        shares = counted(draws[start::3])
        expected = torch.zeros(len(LABELS))
        expected[allowed] = 2 / len(allowed)
        assert all(len(slots) == 2 for slots in draws[start::3])
        torch.testing.assert_close(shares, expected, rtol=0, atol=0.04)  # five standard deviations of 4000 draws
        assert torch.equal(shares > 0, expected > 0)


def test_random_positives_are_uniform_and_never_the_own_row():
    torch.manual_seed(0)
    draws = slots_of(random_positives(anchors_of(bank_with_gaps(), [2, 4, 6] * 4000), 1))
    for start, allowed in ((0, [0, 5]), (1, [1]), (2, [])):
        expected = torch.zeros(len(LABELS))
        expected[allowed] = 1 / max(1, len(allowed))
        torch.testing.assert_close(counted(draws[start::3]), expected, rtol=0, atol=0.04)


def test_random_positives_of_an_anchor_without_a_row():
    """Slot 7 was never written, so nothing is to be stepped over."""
    torch.manual_seed(0)
    draws = slots_of(random_positives(anchors_of(bank_with_gaps(), [7] * 200), 3))
    assert all(sorted(slots) == [0, 2, 5] for slots in draws)


@pytest.mark.parametrize(("available", "count"), [(6, 3), (5, 4), (7, 1), (9, 2), (4, 3)])
def test_every_subset_is_drawn_equally_often(available, count):
    torch.manual_seed(0)
    subsets = {subset: place for place, subset in enumerate(itertools.combinations(range(available), count))}
    trials = 2000 * len(subsets)
    numbers, valid = draw_without_replacement(torch.full((trials,), available), count)
    assert valid.all()
    code = (1 << numbers).sum(dim=1)
    counts = torch.stack([(code == sum(1 << number for number in subset)).sum() for subset in subsets]).double()
    assert counts.sum() == trials  # so every draw was a subset: distinct numbers within range
    chi_squared = ((counts - 2000) ** 2 / 2000).sum().item()
    degrees = len(subsets) - 1
    assert chi_squared < degrees + 5 * math.sqrt(2 * degrees)


def test_long_chains_of_taken_tops():
    """Nearly everything is drawn, so most steps meet numbers that earlier steps took."""
    torch.manual_seed(0)
    numbers, valid = draw_without_replacement(torch.tensor([512, 513, 600, 63_000] * 50), 512)
    assert valid.all()
    assert all(len(row.unique()) == 512 for row in numbers)
    assert torch.equal(numbers[0].sort().values, torch.arange(512))
    assert (numbers >= 0).all()
    assert (numbers.amax(dim=1) < torch.tensor([512, 513, 600, 63_000] * 50)).all()
    # Of 513 numbers one is left out, each with the same chance; the mean of what is left out is 256.
    left_out = 513 * 512 // 2 - numbers[1::4].sum(dim=1)
    assert len(left_out.unique()) > 35
    assert abs(left_out.double().mean().item() - 256) < 5 * 148 / math.sqrt(50)


def test_fewer_available_than_asked_for():
    numbers, valid = draw_without_replacement(torch.tensor([3, 0, 1]), 5)
    assert [sorted(row[there].tolist()) for row, there in zip(numbers, valid, strict=True)] == [[0, 1, 2], [], [0]]
    assert (numbers >= 0).all()
    assert draw_without_replacement(torch.tensor([3, 0]), 0)[0].shape == (2, 0)


def test_without_repeats():
    def selection(rows, valid):
        return Selection(torch.tensor(rows), torch.tensor(valid))

    drawn = selection([[4, 1, 7], [4, 1, 7]], [[True, True, False], [True, True, True]])
    hard = selection([[7, 4], [9, 4]], [[True, True], [True, False]])
    kept = without_repeats(drawn, hard)
    assert kept.valid.tolist() == [[False, True, False], [True, True, True]]
    none = Selection(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool))
    assert torch.equal(without_repeats(drawn, none).valid, drawn.valid)
