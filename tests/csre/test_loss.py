"""InfoNCE against numbers worked out by hand."""

import math

import pytest
import torch

from csre.loss import Cosines, info_nce, mean_over_active


def scores(values, valid=None):
    values = torch.tensor(values, dtype=torch.float64)
    return Cosines(values, torch.ones_like(values, dtype=torch.bool) if valid is None else torch.tensor(valid))


def test_equal_similarities_cost_the_logarithm_of_all_logits():
    """The start of a training: log(1025) = 6.93 against 1024 joint negatives, log(513) = 6.24 against 512."""
    positives, joint, half = scores([[0.3] * 128]), scores([[0.3] * 1024]), scores([[0.3] * 512])
    mean, _ = info_nce(positives, [joint], 0.8, "mean")
    total, _ = info_nce(positives, [joint], 0.8, "sum")
    split, _ = info_nce(positives, [half, half], 0.8, "mean")
    assert mean.item() == pytest.approx(math.log(1025), abs=1e-12)
    assert total.item() == pytest.approx(128 * math.log(1025), abs=1e-9)
    assert total.item() == pytest.approx(887, abs=1)
    assert split.item() == pytest.approx(math.log(513), abs=1e-12)


@pytest.mark.parametrize(("positive", "negative", "expected"), [(1.0, -1.0, 3.76), (-1.0, 1.0, 8.74)])
def test_bounds_of_one_row(positive, negative, expected):
    cost, _ = info_nce(scores([[positive]]), [scores([[negative] * 512])], 0.8, "mean")
    assert cost.item() == pytest.approx(math.log1p(512 * math.exp((negative - positive) / 0.8)), abs=1e-12)
    assert cost.item() == pytest.approx(expected, abs=0.005)


def test_a_small_temperature_neither_overflows_nor_rounds_off():
    cost, _ = info_nce(scores([[-1.0, 1.0]]), [scores([[1.0, -1.0]])], 0.001, "sum")
    # The first positive costs 1000 - (-1000), the second shares its logit with one negative; the rest is below e^-2000.
    assert cost.item() == pytest.approx(2000 + math.log(2), abs=1e-9)


def test_what_is_not_valid_does_not_count():
    positives = scores([[0.5, 9.0], [0.5, 0.1]], [[True, False], [True, True]])
    negatives = scores([[0.2, -0.4, 7.0]] * 2, [[True, True, False]] * 2)
    cost, _ = info_nce(positives, [negatives], 0.5, "mean")

    def row(positive):
        return math.log1p((math.exp(0.2 / 0.5) + math.exp(-0.4 / 0.5)) / math.exp(positive / 0.5))

    expected = torch.tensor([row(0.5), (row(0.5) + row(0.1)) / 2], dtype=torch.float64)
    torch.testing.assert_close(cost, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("temperature", [0.05, 0.8])
def test_the_derivatives_are_those_of_the_losses(reduction, sets, temperature):
    rng = torch.Generator().manual_seed(0)

    def cosines(columns):
        values = 2 * torch.rand(3, columns, dtype=torch.float64, generator=rng) - 1
        valid = torch.rand(3, columns, generator=rng) < 0.7
        valid[:, 0] = True
        return Cosines(values.requires_grad_(), valid)

    positives, denominators = cosines(4), [cosines(5 + number) for number in range(sets)]
    losses, slopes = info_nce(positives, denominators, temperature, reduction)
    expected = torch.autograd.grad(losses.sum(), [part.values for part in (positives, *denominators)])
    torch.testing.assert_close(slopes, torch.cat(expected, dim=1), rtol=1e-12, atol=1e-12)
    valid = torch.cat([part.valid for part in (positives, *denominators)], dim=1)
    assert torch.equal(slopes != 0, valid)


@pytest.mark.parametrize("empty", ["positives", "negatives"])
def test_an_anchor_without_partners_leaves_losses_and_derivatives_finite(empty):
    values = torch.tensor([[0.5, 0.2], [0.1, 0.3]], dtype=torch.float64)
    everything = torch.ones(2, 2, dtype=torch.bool)
    some = torch.tensor([[True, True], [False, False]])
    positives = Cosines(values, some if empty == "positives" else everything)
    negatives = Cosines(values.flip(1), some if empty == "negatives" else everything)
    losses, slopes = info_nce(positives, [negatives], 0.8, "mean")
    assert losses.isfinite().all()
    assert slopes.isfinite().all()
    assert slopes[0].count_nonzero() == 4
    if empty == "positives":
        assert slopes[1].count_nonzero() == 0


def test_mean_over_active():
    costs = torch.tensor([1.0, 5.0, float("nan")], requires_grad=True)
    active = torch.tensor([True, True, False])
    assert mean_over_active(costs, active, active.sum()).item() == 3.0
    assert mean_over_active(costs, active, torch.tensor(4)).item() == 1.5  # of a batch with two more on another rank
    nothing = mean_over_active(costs, torch.zeros(3, dtype=torch.bool), torch.tensor(0))
    nothing.backward()
    assert nothing.item() == 0.0
    assert torch.equal(costs.grad, torch.zeros(3))
