"""The benchmark of the data's way runs and reports what it promises, and what it measures against is right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from feeders import PackedStore
from feeders.ntu.names import get_dataset, parse_name
from feeders.ntu.raw import parse_skeleton
from tools.benchmark.command import main
from tools.benchmark.data import ALL_NUMBERS, COORDINATES, parse_lines, repeat_clips
from tools.ntu_clips import generate_tree


def test_it_prints_and_returns_every_measurement(capsys):
    words = [
        "--raw_clips",
        "2",
        "--jobs",
        "2",
        "--store_clips",
        "250",
        "--batch",
        "4",
        "--batches",
        "1",
        "--rounds",
        "1",
    ]
    assert main(["data", *words, "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    results = json.loads(output.splitlines()[-1])
    assert results["prepare_over_plain"] == pytest.approx(
        results["prepare_clips_per_second"] / results["plain_clips_per_second"]
    )
    assert 0 < results["store_over_padded"] < 1
    assert results["feeder_clips_per_second"] == pytest.approx(4 * results["feeder_batches_per_second"])
    assert results["start_seconds"] > 0
    # Far more than a bare interpreter takes, and far less than what this process, which has torch, has taken.
    assert 30 < results["prepare_peak_mb"] < 300
    for what in ("raw clips", "memory of one process", "start to first batch", "training feeder"):
        assert what in output


def test_the_plain_parse_reads_what_the_parser_of_the_project_reads(tmp_path):
    generate_tree(tmp_path, get_dataset("ntu60"), 6)
    for file in tmp_path.rglob("*.skeleton"):
        plain = parse_lines(file, COORDINATES)
        bodies = parse_skeleton(file.read_bytes()).bodies
        assert list(plain) == [str(body.body_id) for body in bodies]
        for mine, body in zip(plain.values(), bodies, strict=True):
            np.testing.assert_array_equal(np.array(mine, np.float32), body.joints)
        whole = parse_lines(file, ALL_NUMBERS)
        assert np.array(next(iter(whole.values()))).shape[1:] == (25, 12)


def test_a_repeated_store_holds_the_same_clips_under_other_names(tmp_path):
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal((5 + i, 1 + i, 25, 3)).astype(np.float32) for i in range(2)]
    store = PackedStore.from_clips(clips, [0, 1], ["a", "b"], ["x", "y"], "ntu")
    repeat_clips(store, tmp_path / "large.h5", 5)
    large = PackedStore.load(tmp_path / "large.h5")
    assert len(set(large.names)) == 5
    for i, name in enumerate(large.names):
        assert np.array_equal(large.clip(i).numpy(), clips[i % 2])
        numbers = parse_name(name)
        assert large.labels[i] == numbers.action - 1
        assert large.metadata["subject"][i] == numbers.subject
