"""Times to be compared, measured in turns: whatever else the machine does then slows all of them alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from time import perf_counter

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def median_seconds(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    at_least: float = 0.0,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, float]:
    """Seconds that one call of each step takes: the median over the rounds, in each of which every step has its turn.

    Every step is called twice before, once to warm up and once to see how often a turn repeats it to last `at_least`
    seconds. Waits for the GPU where there is one. `clock` returns seconds: perf_counter, or process_time for the
    processor time of all threads.
    """
    repeats = {}
    for name, step in steps.items():
        step()
        repeats[name] = max(1, math.ceil(at_least / _seconds(step, 1, clock)))
    turns = [{name: _seconds(step, repeats[name], clock) for name, step in steps.items()} for _ in range(rounds)]
    return {name: median(turn[name] for turn in turns) for name in steps}


def idle_share(step: Callable[[], object], times: int = 5) -> float:
    """Share of the time of so many calls in which the GPU has nothing to do, by torch's profiler.

    The profiler slows the host a little, and with it what waits for the host.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        seconds = times * _seconds(step, times, perf_counter)
    work = [event for event in record.events() or () if event.device_type == DeviceType.CUDA]
    ranges = [event.time_range for event in work if not event.is_user_annotation]
    return max(0.0, 1 - covered((each.start, each.end) for each in ranges) / (1e6 * seconds))


def covered(ranges: Iterable[tuple[float, float]]) -> float:
    """How much lies in at least one of the ranges (first, last): work on several streams overlaps."""
    total, reached = 0.0, -math.inf
    for first, last in sorted(ranges):
        total += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    return total


def _seconds(step: Callable[[], object], times: int, clock: Callable[[], float]) -> float:
    """Mean time of so many calls."""
    _wait()
    start = clock()
    for _ in range(times):
        step()
    _wait()
    return (clock() - start) / times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
