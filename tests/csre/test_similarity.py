"""Normalised rows and chosen similarities: values, gradients, precision."""

import pytest
import torch

from csre import CSREError
from csre.loss import chosen_similarities, normalise_rows, similarities


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
def test_chosen_similarities_are_products_with_the_chosen_rows(stored):
    torch.manual_seed(0)
    bank = normalise_rows(torch.randn(9000, 6, dtype=torch.float64)).to(stored)  # more than one block of conversion
    chosen = torch.randint(0, 9000, (3, 4000))  # likewise, and rows chosen twice
    weights = torch.randn(3, 4000, dtype=torch.float64)
    query = normalise_rows(torch.randn(3, 6, dtype=torch.float64)).requires_grad_()
    plain = torch.einsum("nd,nkd->nk", query, bank.double()[chosen])
    (expected_gradient,) = torch.autograd.grad((plain * weights).sum(), query)

    values = chosen_similarities(query, similarities(query, bank), chosen, bank)
    (gradient,) = torch.autograd.grad((values * weights).sum(), query)
    torch.testing.assert_close(values, plain, rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


def test_small_gradients_survive_a_half_precision_bank():
    """1e-9 is zero in float16; the gradient of one of 128 positives in a large batch is of this size."""
    bank = torch.eye(2, dtype=torch.float16)
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    values = chosen_similarities(query, similarities(query, bank), torch.tensor([[1]]), bank)
    (values * 1e-9).sum().backward()
    torch.testing.assert_close(query.grad, torch.tensor([[0.0, 1e-9]]), rtol=1e-6, atol=0)


def test_a_bank_that_changed_before_backward_is_an_error():
    bank, query = torch.eye(2), torch.tensor([[1.0, 0.0]], requires_grad=True)
    values = chosen_similarities(query, similarities(query, bank), torch.tensor([[1]]), bank)
    bank[1] = 0.0
    with pytest.raises(CSREError, match="call backward"):
        values.sum().backward()
