"""The bank of limited size: whose turn it is, who is pushed out, and that a long queue is the full bank."""

import pytest
import torch

from csre import ClassQueue, ContrastOptions, Counts, CSREError, MemoryBank
from csre.contrast import contrast
from csre.loss import normalise_rows

LABELS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 3])  # with 2 rows per class: rows 0 1 | 2 3 | 4; class 2 is empty


def write(queue, indices, values=None):
    """Store (1, value), not normalised, so that a row shows which write filled it."""
    indices = torch.tensor(indices)
    values = indices.float() if values is None else torch.tensor(values, dtype=torch.float32)
    queue.write(torch.stack([torch.ones_like(values), values], dim=1), LABELS[indices], indices)


def test_a_class_with_fewer_indices_gets_a_row_for_each():
    assert len(ClassQueue(LABELS, 2, capacity=2).rows) == 2 + 2 + 1
    assert len(ClassQueue(LABELS, 2, capacity=4).rows) == 4 + 2 + 1


def test_the_oldest_row_goes_first():
    queue = ClassQueue(LABELS, 2, capacity=2)
    for index in (0, 1, 2):
        write(queue, [index])
    assert queue.owner.tolist() == [2, 1, -1, -1, -1]
    write(queue, [3, 5, 4, 7])
    assert queue.owner.tolist() == [4, 3, 5, -1, 7]
    assert queue.rows[:, 1].tolist() == [4, 3, 5, 0, 7]
    assert queue.written.tolist() == [True, True, True, False, True]


def test_an_index_in_the_queue_is_rewritten_in_place():
    queue = ClassQueue(LABELS, 2, capacity=2)
    write(queue, [0, 1])
    write(queue, [0, 2], [10, 20])  # 2 takes the first row, where 0 has just been rewritten: the later one stays
    assert queue.owner.tolist()[:2] == [2, 1]
    write(queue, [1], [30])
    assert queue.rows[:2, 1].tolist() == [20, 30]
    write(queue, [3])
    assert queue.owner.tolist()[:2] == [2, 3]


def test_repeated_and_overflowing_indices_in_one_batch():
    queue = ClassQueue(LABELS, 2, capacity=2)
    write(queue, [0, 1, 0, 2, 5, 5], [1, 2, 3, 4, 5, 6])
    # 0 and 1 take rows 0 and 1, 2 takes row 0 again and comes last; 5 has one row, with its last value.
    assert queue.owner.tolist() == [2, 1, 5, -1, -1]
    assert queue.rows[:3, 1].tolist() == [4, 2, 6]
    assert queue.rows_of(torch.tensor([0, 1, 2, 5])).tolist() == [-1, 1, 0, 2]


def test_an_anchor_that_was_pushed_out_is_still_contrasted():
    queue = ClassQueue(LABELS, 2, capacity=2)
    query = normalise_rows(torch.randn(4, 2))
    indices = torch.tensor([0, 1, 2, 5])
    queue.write(query, LABELS[indices], indices)
    options = ContrastOptions(positives=Counts(2, 2), negatives=Counts(2, 2))
    ((_, active, _),) = contrast([query], [query], LABELS[indices], indices, [queue], options)
    # 0 was pushed out by 2 and has two positives; 1 and 2 have each other; 5 has none but itself.
    assert active.tolist() == [True, True, True, False]


def test_what_is_not_storable_takes_no_turn():
    queue = ClassQueue(LABELS, 2, capacity=2)
    rows = torch.tensor([[1.0, 5.0], [1.0, 6.0], [0.0, 0.0]])
    queue.write(rows, torch.tensor([1, 3, 0]), torch.tensor([1, 99, 0]))  # foreign label, foreign index, zero row
    assert queue.turn.tolist() == [0, 0, 0, 0]
    assert not queue.written.any()


def test_no_index_ever_has_two_rows_and_owners_match_their_rows():
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (60,))
    queue, latest = ClassQueue(labels, 2, capacity=5), {}
    for step in range(60):
        indices = torch.randint(0, 60, (9,))
        values = torch.arange(9.0) + 100 * step
        queue.write(torch.stack([torch.ones(9), values], dim=1), labels[indices], indices)
        latest |= dict(zip(indices.tolist(), values.tolist(), strict=True))
        owners = queue.owner[queue.written]
        assert len(owners.unique()) == len(owners)
        assert queue.rows[queue.written, 1].tolist() == [latest[index] for index in owners.tolist()]
    classes = torch.repeat_interleave(torch.arange(4), torch.tensor([5, 5, 5, 5]))
    assert torch.equal(labels[queue.owner], classes)


def test_a_long_queue_gives_the_losses_of_the_full_bank():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (30,))
    banks = [MemoryBank(labels, 4, torch.float64), ClassQueue(labels, 4, capacity=30, dtype=torch.float64)]
    options = ContrastOptions(positives=Counts(4, 0), negatives=Counts(6, 30))
    for _ in range(8):
        indices = torch.randint(0, 30, (6,))
        features = torch.randn(6, 4, dtype=torch.float64)
        results = []
        for bank in banks:
            query = features.clone().requires_grad_()
            unit = normalise_rows(query)
            bank.write(unit, labels[indices], indices)
            ((loss, active, _),) = contrast([unit], [unit.detach()], labels[indices], indices, [bank], options)
            loss.backward()
            results.append((loss.detach(), query.grad, active))
        for full, queued in zip(*results, strict=True):
            torch.testing.assert_close(queued, full, rtol=1e-12, atol=1e-12)
    assert results[0][0] > 0


def test_a_resumed_queue_goes_on_as_if_nothing_had_happened():
    queue, resumed = ClassQueue(LABELS, 2, capacity=2), ClassQueue(LABELS, 2, capacity=2)
    write(queue, [0, 1, 2, 5])
    resumed.load_state_dict(queue.state_dict())
    for either in (queue, resumed):
        write(either, [3, 6])
    for name, value in queue.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert queue.owner.tolist() == [2, 3, 5, 6, -1]


@pytest.mark.parametrize("capacity", [0, 1, -3, 2.5])
def test_bad_capacities_are_named(capacity):
    with pytest.raises(CSREError, match=f"capacity is {capacity}"):
        ClassQueue(LABELS, 2, capacity=capacity)
