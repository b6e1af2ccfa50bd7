"""Steps take turns, each as often as asked for; gaps between pieces of work are found."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from tools.benchmark import timing
from tools.benchmark.timing import covered, idle_share, median_seconds


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


def test_work_on_several_streams_counts_once():
    assert covered([(4.0, 6.0), (0.0, 2.0), (1.0, 3.0), (4.5, 5.0)]) == 5.0
    assert covered([]) == 0.0


def test_idle_is_what_no_kernel_covers(monkeypatch):
    def event(first, last, device=DeviceType.CUDA, annotation=False):
        times = SimpleNamespace(start=first, end=last)
        return SimpleNamespace(device_type=device, is_user_annotation=annotation, time_range=times)

    work = [event(0.0, 3e5), event(2e5, 5e5), event(0.0, 2e6, DeviceType.CPU), event(0.0, 2e6, annotation=True)]
    monkeypatch.setattr(timing, "profile", lambda **_: nullcontext(SimpleNamespace(events=lambda: work)))
    monkeypatch.setattr(timing, "_seconds", lambda *_: 0.4)
    assert idle_share(lambda: None, times=5) == pytest.approx(0.75)
