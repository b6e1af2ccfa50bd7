"""The benchmark runs and reports what it promises; how fast anything is, is not a test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def test_csre_benchmark_prints_both_comparisons():
    words = ["--threads", "1", "--device", "cpu", "csre", "--rows", "400", "--classes", "4", "--clips", "2"]
    done = subprocess.run(
        [sys.executable, "tools/benchmark.py", *words, "--seconds", "0.01"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["speed_up"] == pytest.approx(results["plain_step_ms"] / results["csre_step_ms"])
    assert results["training_step_ms"] > 0
    assert "times as fast as the plain loop" in done.stdout
