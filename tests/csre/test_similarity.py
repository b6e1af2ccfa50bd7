"""Normalised rows, similarities to rows of a bank, sums of them: values, gradients, precision."""

import pytest
import torch

from csre.loss import normalise_rows, similarities, weighted_rows


def test_rows_get_length_one_and_the_gradient_is_tangential():
    features = torch.tensor([[3.0, 4.0], [0.0, -2.0]], requires_grad=True)
    unit = normalise_rows(features)
    torch.testing.assert_close(unit, torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    unit[:, 0].sum().backward()
    # d(x/|x|)/dx = (I - u u^T) / |x|
    torch.testing.assert_close(features.grad, torch.tensor([[0.64 / 5, -0.48 / 5], [0.5, 0.0]]))


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_row_without_direction_becomes_zero_and_gets_no_gradient(bad):
    features = torch.tensor([[1.0, 2.0], [bad, bad]], requires_grad=True)
    unit = normalise_rows(features)
    assert torch.equal(unit[1], torch.zeros(2))
    (unit * torch.tensor([[1.0, 5.0], [2.0, 3.0]])).sum().backward()
    assert features.grad[0].count_nonzero() == 2
    assert torch.equal(features.grad[1], torch.zeros(2))


@pytest.mark.parametrize(
    ("given", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_precision_of_unit_rows(given, computed):
    assert normalise_rows(torch.ones(2, 3, dtype=given)).dtype == computed


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_similarities_and_weighted_rows_are_products_with_the_rows(stored):
    torch.manual_seed(0)
    bank = normalise_rows(torch.randn(9000, 6, dtype=torch.float64)).to(stored)  # more than one block
    chosen = torch.randint(0, 9000, (3, 4000))  # likewise, and rows chosen twice
    weights = torch.randn(3, 4000, dtype=torch.float64)
    query = normalise_rows(torch.randn(3, 6, dtype=torch.float64))
    values, rows = similarities([query], [bank])[0], weighted_rows(bank, chosen, weights)
    torch.testing.assert_close(values, torch.einsum("nd,bd->nb", query, bank.double()), rtol=0, atol=1e-13)
    expected = torch.einsum("nk,nkd->nd", weights, bank.double()[chosen])
    torch.testing.assert_close(rows, expected, rtol=1e-12, atol=1e-12)


def test_small_gradients_survive_a_half_precision_bank():
    """1e-9 is zero in float16; the gradient of one of 128 positives in a large batch is of this size."""
    rows = weighted_rows(torch.eye(2, dtype=torch.float16), torch.tensor([[1]]), torch.tensor([[1e-9]]))
    torch.testing.assert_close(rows, torch.tensor([[0.0, 1e-9]]), rtol=1e-6, atol=0)
