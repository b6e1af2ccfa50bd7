"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most bytes that one call of `step` holds at once in tensors that it allocates on the device.

    What is there before the call does not count, and neither does what libraries allocate outside torch. On a GPU
    torch's allocator keeps the peak itself; on the CPU it follows from the allocations that torch's profiler records.
    Call `step` once before: a first call allocates what later ones find.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    peak = 0
    held: dict[int, int] = {}
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            held[address] = size
        else:
            # A block from before, such as the last step's gradients, may come with the size of what an earlier profile
            # saw at that address.
            held.pop(address, None)
        peak = max(peak, sum(held.values()))
    return peak
