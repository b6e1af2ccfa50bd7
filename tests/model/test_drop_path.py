"""Stochastic depth."""

from __future__ import annotations

import pytest
import torch

from model.draws import Draws
from model.drop_path import DropPath


def test_whole_rows_are_dropped_and_the_mean_stays():
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(2000, 3, 2))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    per_row = dropped.flatten(1)
    assert torch.equal(per_row, per_row[:, :1].expand_as(per_row))
    assert abs((per_row[:, 0] == 0).float().mean() - 0.25) < 5 * (0.25 * 0.75 / 2000) ** 0.5


def test_nothing_happens_in_evaluation_or_at_rate_0():
    x = torch.randn(8, 3)
    assert DropPath(0.5).eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_ranks_drop_what_one_process_drops():
    x = torch.ones(12, 3)

    def dropped(rank, ranks):
        layer = DropPath(0.5)
        layer.draws = Draws((0, 1, 1), rank=rank)
        return layer(x.chunk(ranks)[rank])

    whole = dropped(0, 1)
    assert 0 < (whole == 0).sum() < whole.numel()
    assert torch.equal(torch.cat([dropped(rank, 3) for rank in range(3)]), whole)


def test_the_dtype_stays():
    assert DropPath(0.5)(torch.ones(4, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
