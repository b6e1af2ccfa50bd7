"""The peak is that of the tensors alive together."""

from __future__ import annotations

import torch

from tools.benchmark.memory import peak_bytes

MIB = 2**20
FLOATS = MIB // 4
CPU = torch.device("cpu")


def test_tensors_that_live_together_add_up_and_those_that_follow_each_other_do_not():
    def together():
        return [torch.empty(3 * FLOATS), torch.empty(2 * FLOATS)]

    def one_after_the_other():
        first = torch.empty(3 * FLOATS)
        del first
        return torch.empty(2 * FLOATS)

    assert peak_bytes(together, CPU) == 5 * MIB
    assert peak_bytes(one_after_the_other, CPU) == 3 * MIB


def test_what_was_there_before_does_not_count():
    before = torch.ones(4 * FLOATS)
    assert 4 * MIB <= peak_bytes(lambda: before + 1, CPU) < 5 * MIB
    assert peak_bytes(lambda: before.add_(1), CPU) < MIB


def test_what_it_releases_of_a_call_before_does_not_count():
    held = []

    def step():
        held.clear()
        held.append(torch.empty(3 * FLOATS))

    for _ in range(3):
        assert peak_bytes(step, CPU) == 3 * MIB


def test_what_the_backward_pass_needs_is_held_until_then():
    x = torch.ones(FLOATS, requires_grad=True)

    def step():
        x.sigmoid().sigmoid().sum().backward()
        x.grad = None

    step()
    # Two kept results and the two gradients that flow back.
    assert 3 * MIB <= peak_bytes(step, CPU) <= 5 * MIB
    with torch.no_grad():
        assert peak_bytes(lambda: x.sigmoid().sigmoid().sum(), CPU) <= 2 * MIB + 1024
