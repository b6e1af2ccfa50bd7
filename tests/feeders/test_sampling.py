"""Chance: orders and draws of an epoch, and the clips held out for validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feeders.sampling import epoch_draws, epoch_order, held_out


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


@pytest.mark.parametrize(("fraction", "people"), [(0.1, 2), (0.25, 5), (0.01, 1), (0.99, 19)])
def test_whole_subjects_are_held_out(fraction, people):
    subjects = np.repeat(np.arange(1, 21), 7)
    mask = held_out(torch.zeros(140, dtype=torch.int64), subjects, fraction, seed=0).numpy()
    assert len(set(subjects[mask])) == people
    assert not set(subjects[mask]) & set(subjects[~mask])


@pytest.mark.parametrize("subjects", [None, np.ones(106, np.int64)])
def test_without_subjects_a_share_of_every_class_is_held_out(subjects):
    labels = torch.tensor([0] * 60 + [1] * 40 + [2] * 5 + [3])
    mask = held_out(labels, subjects, 0.1, seed=0)
    assert labels[mask].bincount(minlength=4).tolist() == [6, 4, 1, 0]


def test_the_clips_held_out_depend_on_the_seed_alone():
    labels, subjects = torch.arange(100) % 5, np.arange(100) % 20
    for of in (None, subjects):
        first = held_out(labels, of, 0.2, seed=1)
        assert torch.equal(first, held_out(labels, of, 0.2, seed=1))
        assert any(not torch.equal(first, held_out(labels, of, 0.2, seed)) for seed in (2, 3, 4))
