"""Dropout of numbers and of whole rows, which draws as the layers of a training step do."""

from __future__ import annotations

import pytest
import torch

from model.draws import Draws
from model.dropout import Dropout, DropPath


class Given:
    """Numbers given beforehand in the place of those of a training step."""

    def __init__(self, numbers) -> None:
        self.numbers = numbers

    def uniform(self, rows, width, layer, draw):
        assert (rows, width) == tuple(self.numbers.shape)
        return self.numbers


def test_what_falls_is_decided_by_the_bytes_of_its_row():
    layer = Dropout(0.25)
    first, second, third, last = (number + 256 * (63 + 256 * 255) for number in (64, 0, 200, 63))
    layer.draws = Given(torch.tensor([[first, second], [third, last]]) / 2**24)
    x = torch.arange(1.0, 9.0).view(2, 2, 2)
    kept = torch.tensor([[1, 0, 3, 0], [5, 0, 7, 0]]).view(2, 2, 2)  # the second byte is 63, the third 255
    assert torch.allclose(layer(x), kept / 0.75)


def test_the_rate_is_that_of_a_byte():
    layer = Dropout(1 / 3)
    layer.draws = Draws((0, 1, 1))
    dropped = layer(torch.ones(100, 2000))
    assert dropped.unique().tolist() == pytest.approx([0, 256 / 171])
    share = (dropped == 0).float()
    error = (85 * 171 / 256**2 / share.numel()) ** 0.5
    assert abs(share.mean() - 85 / 256) < 5 * error
    assert abs((share[:, 1:] * share[:, :-1]).mean() - (85 / 256) ** 2) < 5 * error, "neighbours fall apart"


@pytest.mark.parametrize("kind", [Dropout, DropPath])
def test_ranks_drop_what_one_process_drops(kind):
    x = torch.ones(12, 2, 5)

    def dropped(rank, ranks):
        layer = kind(0.5)
        layer.draws = Draws((0, 1, 1), rank=rank)
        return layer(x.chunk(ranks)[rank])

    whole = dropped(0, 1)
    assert 0 < (whole == 0).sum() < whole.numel()
    assert torch.equal(torch.cat([dropped(rank, 3) for rank in range(3)]), whole)


def test_the_mean_stays_outside_of_a_training_run_too():
    torch.manual_seed(0)
    dropped = Dropout(0.5)(torch.ones(100, 200))
    assert dropped.unique().tolist() == [0, 2]
    assert dropped.mean().item() == pytest.approx(1, abs=5 / 20000**0.5)


def test_whole_paths_are_dropped_and_the_mean_stays():
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(2000, 3, 2))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    per_row = dropped.flatten(1)
    assert torch.equal(per_row, per_row[:, :1].expand_as(per_row))
    assert abs((per_row[:, 0] == 0).float().mean() - 0.25) < 5 * (0.25 * 0.75 / 2000) ** 0.5


@pytest.mark.parametrize("kind", [Dropout, DropPath])
def test_nothing_happens_in_evaluation_or_at_rate_0(kind):
    x = torch.randn(8, 3)
    assert kind(0.5).eval()(x) is x
    assert kind(0.0)(x) is x


@pytest.mark.parametrize("kind", [Dropout, DropPath])
def test_the_dtype_stays(kind):
    assert kind(0.5)(torch.ones(4, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
