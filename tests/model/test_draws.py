"""Random numbers of layers that drop something: uniform, of their place alone, the same for torch.compile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graph import get_skeleton
from model import build_encoder
from model.draws import Draws, RandomLayer
from tests.model.slim import slim

ROWS, WIDTH = 400, 50


def lowbias32(bits: int) -> int:
    """The published hash in Python's integers."""
    bits ^= bits >> 16
    bits = bits * 0x7FEB352D % 2**32
    bits ^= bits >> 15
    bits = bits * 0x846CA68B % 2**32
    return bits ^ bits >> 16


def test_numbers_are_the_hash_of_their_place():
    numbers = Draws((7, 2, 31), rank=3).uniform(4, 5, layer=6, draw=1)
    assert numbers.dtype == torch.float32
    for row in range(4):
        for column in range(5):
            bits = int(np.random.SeedSequence((7, 2, 31)).generate_state(1)[0])
            for place in (6, 1, 3 * 4 + row, column):
                bits = lowbias32(bits ^ place)
            assert numbers[row, column].item() == (bits >> 8) / 2**24


def test_numbers_are_uniform():
    numbers = Draws((0, 1, 1)).uniform(ROWS, WIDTH).flatten().double()
    count = len(numbers)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert abs(numbers.mean() - 1 / 2) < 5 * (1 / 12 / count) ** 0.5
    assert abs(numbers.var() - 1 / 12) < 5 * (1 / 180 / count) ** 0.5
    in_bins = torch.histc(numbers, 100, 0, 1)
    # Chi-squared of 99 degrees of freedom: mean 99, standard deviation sqrt(2 * 99).
    assert abs(((in_bins - count / 100) ** 2 / (count / 100)).sum() - 99) < 5 * 198**0.5


@pytest.mark.parametrize("of", ["row", "column", "layer", "draw", "step", "epoch", "seed"])
def test_neighbours_are_not_correlated(of):
    here = Draws((3, 5, 7)).uniform(ROWS, WIDTH)
    if of == "row":
        here, there = here[:-1], here[1:]
    elif of == "column":
        here, there = here[:, :-1], here[:, 1:]
    elif of in ("layer", "draw"):
        there = Draws((3, 5, 7)).uniform(ROWS, WIDTH, **{of: 1})
    else:
        there = Draws({"seed": (4, 5, 7), "epoch": (3, 6, 7), "step": (3, 5, 8)}[of]).uniform(ROWS, WIDTH)
    assert not (here == there).all(dim=1).any()
    correlation = torch.corrcoef(torch.stack([here.flatten(), there.flatten()]))[0, 1]
    assert abs(correlation) < 5 * here.numel() ** -0.5


@pytest.mark.parametrize("name", ["dcgcn", "hyperformer", "skateformer"])
def test_layers_of_an_encoder_draw_numbers_of_their_own(name):
    encoder = build_encoder(name, skeleton=get_skeleton("nw-ucla"), num_classes=3, num_persons=1, **slim(name))
    encoder.begin_step(1, 2, Draws((0, 1, 1)))
    layers = [module for module in encoder.modules() if isinstance(module, RandomLayer)]
    assert len(layers) > 1
    drawn = {tuple(layer.uniform(torch.ones(8, 1)).flatten().tolist()) for layer in layers}
    assert len(drawn) == len(layers)
