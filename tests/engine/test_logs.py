"""Lines of a run as data: kept up to where the run is, whatever happened to the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.logs import RunLog, duration, progress, read_records

RECORDS = [
    {"kind": "step", "at": 2, "epoch": 1, "step": 2, "loss": 3.0},
    {"kind": "train", "at": 1, "epoch": 1, "loss": 2.5},
    {"kind": "test", "at": 1, "epoch": 1, "top1": 50.0},
    {"kind": "step", "at": 4, "epoch": 2, "step": 2, "loss": 2.0},
]


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


def test_records_come_back(written):
    assert read_records(written) == RECORDS
    assert read_records(written.with_name("absent.jsonl")) == []


def test_lines_of_an_interrupted_epoch_are_dropped_from_data_and_curves(written, tmp_path):
    with RunLog(tmp_path, trained=1, tested=0, step=1) as log:
        log.record("test", 1, {"epoch": 1, "top1": 60.0})
    assert read_records(written) == [*RECORDS[:2], {"kind": "test", "at": 1, "epoch": 1, "top1": 60.0}]
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in curves.Scalars("test/top1")] == [60.0]
    assert [event.step for event in curves.Scalars("step/loss")] == [2]


def test_any_flipped_bit_costs_a_line_at_most_and_is_said(written, tmp_path, capsys):
    whole = written.read_bytes()
    rng = np.random.default_rng(0)
    said = 0
    for place, bit in zip(rng.integers(0, len(whole), 150), rng.integers(0, 8, 150), strict=True):
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        written.write_bytes(changed)
        with RunLog(tmp_path, trained=9, tested=9):
            pass
        kept, out = read_records(written), capsys.readouterr().out
        assert len(kept) >= len(RECORDS) - 2  # a line break that is lost joins two
        if "cannot be read" in out:
            said += 1
            assert str(written) in out
        else:
            assert len(kept) == len(RECORDS)
    assert said > 20


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (7384, "2:03:04"), (93784, "1 d 02:03")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_progress_yields_the_items():
    assert list(progress(iter([1, 2, 3]), "counting", total=5, done=2)) == [1, 2, 3]
