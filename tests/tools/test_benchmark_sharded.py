"""The simulated run with sharded banks: its arithmetic, and that ranks keep parts and agree on what they measure."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
from torch.multiprocessing import start_processes

from tests.forking import FORKING
from tools.benchmark import sharded
from tools.benchmark.command import main


@pytest.fixture
def results_of(capfd):
    """Runs a command line; the numbers of its last line."""

    def run(*words):
        assert main(["sharded", *words, "--device", "cpu"]) == 0
        return json.loads(capfd.readouterr().out.splitlines()[-1])

    return run


def test_the_arithmetic_of_ten_million_rows(results_of):
    arithmetic = results_of("--rows", "10000000", "--dim", "256", "--branches", "2", "--clips", "64")["arithmetic"]
    assert arithmetic["rows_bytes"] == 10_240_000_000  # float16
    assert arithmetic["similarity_bytes"] == 2_560_000_000
    # Per clip and bank: a feature and a gradient, 128 + 512 hard and 512 drawn rows as similarity (4 bytes) and number
    # (8 bytes), then 1152 slopes, each with the number of its row.
    assert arithmetic["received_bytes"] == 2 * 64 * (2 * 256 * 4 + 1152 * 12 + 1152 * 12)


def test_two_ranks_keep_half_of_the_rows_each(results_of, monkeypatch):
    forked = partial(start_processes, start_method=FORKING.get_start_method())  # spares them the imports
    monkeypatch.setattr(sharded.processes, "spawn", forked)
    sizes = ["--rows", "601", "--dim", "8", "--branches", "1", "--classes", "3", "--clips", "4"]
    results = results_of(*sizes, "--bank-dtype", "float32", "--ranks", "2", "--steps", "1", "--run")
    assert results["arithmetic"]["rows_bytes"] == 601 * 8 * 4
    measured = results["ranks"]["2"]
    assert measured["rows_bytes"] == 301 * 8 * 4
    assert measured["rest_bytes"] == results["arithmetic"]["rest_bytes"]
    # One positive against some 400 hard and 400 random negatives, cosines between -1 and 1 at temperature 0.8.
    assert math.log1p(600 * math.exp(-2.5)) < measured["loss"] < math.log1p(1024 * math.exp(2.5))
    assert measured["step_bytes"] > 0
