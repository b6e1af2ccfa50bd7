"""Steps take turns, each as often as asked for."""

from __future__ import annotations

from tools.benchmark.timing import median_seconds


def test_steps_take_turns():
    calls = []
    seconds = median_seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert seconds.keys() == {"a", "b"}
    assert min(seconds.values()) > 0
    assert "".join(calls).endswith("ababab")


def test_a_turn_lasts_at_least_so_long():
    calls = []
    seconds = median_seconds({"a": lambda: calls.append("a")}, rounds=1, at_least=0.001)
    # Two calls come before the turn; the length of one call is known only about, hence the generous bounds.
    assert len(calls) - 2 >= 10
    assert seconds["a"] < 0.001
