"""Dropout that draws its numbers as the layers of a training step do."""

from __future__ import annotations

import pytest
import torch

from model.dropout import Dropout


class Given:
    """Numbers given beforehand in the place of those of a training step."""

    def __init__(self, numbers) -> None:
        self.numbers = numbers

    def uniform(self, rows, width):
        assert (rows, width) == tuple(self.numbers.shape)
        return self.numbers


def test_what_falls_is_decided_by_the_numbers_of_its_row():
    layer = Dropout(0.25)
    numbers = torch.tensor([[0.0, 0.2, 0.3, 0.9], [0.25, 0.24, 0.1, 0.5]])
    layer.draws = Given(numbers)
    x = torch.arange(1.0, 9.0).view(2, 2, 2)
    kept = torch.tensor([[0, 0, 3, 4], [5, 0, 0, 8]]).view(2, 2, 2)
    assert torch.allclose(layer(x), kept / 0.75)


def test_the_mean_stays_outside_of_a_training_run_too():
    torch.manual_seed(0)
    dropped = Dropout(0.5)(torch.ones(100, 200))
    assert dropped.unique().tolist() == [0, 2]
    assert dropped.mean().item() == pytest.approx(1, abs=5 / 20000**0.5)


def test_nothing_happens_in_evaluation_or_at_rate_0():
    x = torch.randn(8, 3)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
