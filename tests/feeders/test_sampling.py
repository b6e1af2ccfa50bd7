"""Chance per epoch: orders and draws."""

from __future__ import annotations

import torch

from feeders.sampling import epoch_draws, epoch_order


def test_the_order_is_a_permutation_that_changes_with_seed_and_epoch():
    orders = [epoch_order(1000, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(1000))
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert torch.equal(epoch_order(1000, 1, 0), orders[2])


def test_draws_are_uniform_and_change_with_seed_and_epoch():
    draws = epoch_draws(2000, 5, seed=3, epoch=7)
    assert draws.dtype == torch.float64
    assert draws.shape == (2000, 5)
    assert 0 <= draws.min() < draws.max() < 1
    # Mean of 2000 uniform numbers: standard deviation 0.0065.
    assert (draws.mean(0) - 0.5).abs().max() < 5 * 0.0065
    assert torch.equal(epoch_draws(2000, 5, 3, 7), draws)
    for seed, epoch in ((3, 8), (4, 7), (7, 3)):
        assert not (epoch_draws(2000, 5, seed, epoch) == draws).any()


def test_order_and_draws_are_separate_sources():
    assert not torch.equal(epoch_draws(50, 1, 0, 0).flatten().argsort(), epoch_order(50, 0, 0))
