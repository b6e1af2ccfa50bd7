"""What tests of runs compare: checkpoints, and the lines of metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def equal(first: Any, second: Any) -> bool:
    """Bit equality of nested checkpoint contents."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def records(folder: Path, kind: str) -> list[dict]:
    """The lines of a run's metrics.jsonl that are of this kind."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]
