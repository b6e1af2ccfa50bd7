"""Lines of a run as data: kept up to where the run is, whatever happened to the file."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from subprocess import PIPE

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.logs import RunLog, duration, progress, read_records
from tests.documents import REPOSITORY

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


@pytest.mark.parametrize("shown", [True, False])
def test_the_bar_is_there_on_a_terminal_without_a_size_for_one_rank(shown):
    pid, terminal = pty.fork()  # its size is 0 x 0
    if pid == 0:
        sys.stderr = open(2, "w")  # noqa: SIM115 - not what pytest put in its place
        bar = progress(range(2), "epoch 3/65", 2, shown=shown)
        for _ in bar:
            bar.set_postfix_str("loss 1.234, run ends in 2:03:04")
        os._exit(0)
    printed = b""
    with suppress(OSError):  # how Linux says that the other side is closed
        while part := os.read(terminal, 1000):
            printed += part
    os.waitpid(pid, 0)
    for text in ("epoch 3/65", "loss 1.234, run ends in 2:03:04"):
        assert (text in printed.decode()) == shown


def test_a_terminal_that_takes_no_more_lines_costs_them_alone(tmp_path):
    program = """
import sys
from pathlib import Path
from common.front_door import run_command
from engine.logs import RunLog

def command():
    with RunLog(Path(sys.argv[1])) as log:
        sys.stdin.readline()
        for number in range(3):
            log.say(f"line {number}")

sys.exit(run_command("main.py", command))
"""
    words = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(words, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=REPOSITORY, text=True) as process:
        process.stdout.close()
        process.stdin.write("go on\n")
        process.stdin.close()
        assert process.stderr.read() == ""
    assert [line.split(" ", 2)[2] for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        "line 0",
        "line 1",
        "line 2",
    ]


def test_progress_yields_the_items():
    assert list(progress(iter([1, 2, 3]), "counting", total=5, done=2)) == [1, 2, 3]
