"""The memory bank: where an index lives, what a write changes, what it leaves alone, what is saved."""

import io

import pytest
import torch

from csre import CSREError, MemoryBank
from csre.loss import normalise_rows

LABELS = [2, 0, 2, 0, 0]  # rows: index 1 3 4 | 0 2; class 1 is empty


def write(bank, vectors, indices, labels=None):
    indices = torch.tensor(indices)
    labels = torch.tensor(LABELS)[indices] if labels is None else torch.tensor(labels)
    bank.write(normalise_rows(torch.tensor(vectors, dtype=torch.float32)), labels, indices)


def test_rows_are_sorted_by_class_and_keep_the_order_within_it():
    bank = MemoryBank(LABELS, 2)
    assert bank.rows_of(torch.tensor([0, 1])).tolist() == [-1, -1]  # nothing is written yet
    write(bank, [[1.0, 0.0]] * 5, range(5))
    assert bank.rows_of(torch.tensor([[1, 3, 4], [0, 2, 99]])).tolist() == [[0, 1, 2], [3, 4, -1]]
    assert bank.longest_class == 3


def test_a_write_stores_unit_rows_and_marks_them():
    bank = MemoryBank(LABELS, 2)
    write(bank, [[3.0, 4.0], [0.0, -2.0]], [2, 3])
    expected = torch.tensor([[0, 0], [0, -1], [0, 0], [0, 0], [0.6, 0.8]])
    torch.testing.assert_close(bank.rows, expected)
    assert bank.written.tolist() == [False, True, False, False, True]


def test_the_last_of_repeated_indices_stays():
    bank = MemoryBank(LABELS, 2)
    write(bank, [[1, 0], [0, 1], [-1, 0], [0, -1], [0, 0]], [2, 1, 2, 2, 2])  # the last of index 2 is a zero row
    assert bank.rows[4].tolist() == [0, -1]
    assert bank.rows[0].tolist() == [0, 1]
    assert bank.written.sum() == 2


@pytest.mark.parametrize("vector", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_a_feature_without_direction_leaves_the_row_alone(vector):
    bank = MemoryBank(LABELS, 2)
    write(bank, [[1.0, 0.0]], [0])
    write(bank, [vector, vector], [0, 1])
    assert bank.rows[3].tolist() == [1, 0]
    assert bank.written.nonzero().flatten().tolist() == [3]
    assert bank.rows.isfinite().all()


@pytest.mark.parametrize(("index", "label"), [(-1, 0), (5, 0), (0, 1), (0, 7)])
def test_an_index_or_label_from_elsewhere_is_left_out(index, label):
    bank = MemoryBank(LABELS, 2)
    write(bank, [[1.0, 0.0], [0.0, 1.0]], [index, 1], [label, 0])
    assert bank.written.tolist() == [True, False, False, False, False]
    anchors = bank.anchors(torch.ones(2, 2), torch.tensor([label, 0]), torch.tensor([index, 1]))
    assert anchors.usable.tolist() == [False, True]


def test_anchors_count_the_written_rows():
    bank = MemoryBank(LABELS, 2)
    write(bank, [[1.0, 0.0]] * 3, [1, 4, 0])
    anchors = bank.anchors(torch.ones(3, 2), torch.tensor([0, 0, 2]), torch.tensor([1, 3, 0]))
    assert anchors.first_row.tolist() == [0, 0, 3]
    assert anchors.num_rows.tolist() == [3, 3, 2]
    assert anchors.own_row.tolist() == [0, -1, 3]
    assert anchors.written_before_class.tolist() == [0, 0, 2]
    assert anchors.written_in_class.tolist() == [2, 2, 1]
    assert anchors.written_elsewhere.tolist() == [1, 1, 2]


def test_no_gradient_reaches_the_bank():
    bank = MemoryBank(LABELS, 2)
    rows = normalise_rows(torch.randn(2, 2, requires_grad=True))
    bank.write(rows, torch.tensor([2, 0]), torch.tensor([0, 1]))
    assert not bank.rows.requires_grad
    assert list(bank.parameters()) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_storage_in_half_precision(dtype):
    bank = MemoryBank(LABELS, 2, dtype)
    write(bank, [[3.0, 4.0]], [0])
    assert bank.rows.dtype == dtype
    torch.testing.assert_close(bank.rows[3].float(), torch.tensor([0.6, 0.8]), rtol=0, atol=0.004)


def test_the_state_dict_carries_rows_and_flags_through_a_file():
    bank, other = MemoryBank(LABELS, 2), MemoryBank(LABELS, 2)
    write(bank, [[3.0, 4.0], [1.0, 0.0]], [2, 3])
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.rows, bank.rows)
    assert torch.equal(other.written, bank.written)
    assert other.rows_of(torch.tensor([0, 2])).tolist() == [-1, 4]


@pytest.mark.parametrize("labels", [[0, 0, 2, 2, 0], [2, 0, 2, 0, 0, 1]])
def test_a_bank_of_other_labels_is_refused(labels):
    with pytest.raises(CSREError, match="saved for other training labels"):
        MemoryBank(labels, 2).load_state_dict(MemoryBank(LABELS, 2).state_dict())


def test_the_labels_are_a_copy():
    labels = torch.tensor(LABELS)
    bank = MemoryBank(labels, 2)
    labels.zero_()
    assert bank.labels.tolist() == LABELS


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], r"shape \(0,\)"),
        ([[0, 1]], r"shape \(1, 2\)"),
        ([0.0, 1.0], "dtype torch.float32"),
        ([0, 3, -2], r"labels\[2\] is -2"),
    ],
)
def test_bad_labels_are_named(labels, message):
    with pytest.raises(CSREError, match=message):
        MemoryBank(labels, 2)
