"""The command that checks a data set: its report and its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feeders import PackedStore
from tools.check_data import main

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def own(tmp_path):
    """A benchmark of one's own with one clip per side."""
    clips = [np.random.default_rng(0).standard_normal((3, 1, 25, 3)).astype(np.float32)] * 2
    store = PackedStore.from_clips(clips, [0, 0], ["a", "b"], ["wave"], "ntu", {"side": [0, 1]})
    store.save(tmp_path / "mine.h5")
    (tmp_path / "mine.yaml").write_text("{skeleton: ntu, classes: [wave], path: mine.h5}")
    return tmp_path


def test_complete_and_valid_is_0(own, capsys):
    assert main([str(own / "mine.h5"), "--benchmark", str(own / "mine.yaml")]) == 0
    output = capsys.readouterr().out
    assert output.startswith("format: packed store\nskeleton: ntu, 25 joints\nclips: 2 of 1 classes, 6 frames\n")
    assert "benchmark mine, train: 1 clip\n" in output
    assert output.endswith("missing clips that are known by name: 0\nbad clips: 0\ncomplete and valid\n")


def test_incomplete_is_1(own, capsys):
    assert main([str(own / "mine.h5")]) == 1
    assert "benchmark: none fits" in capsys.readouterr().out


def test_an_empty_side_is_1_with_everything_else(own, capsys):
    clip = np.ones((3, 1, 25, 3), np.float32)
    PackedStore.from_clips([clip], [0], ["a"], ["wave"], "ntu", {"subject": [1]}).save(own / "mine.h5")
    (own / "mine.yaml").write_text(
        "{skeleton: ntu, classes: [wave], path: mine.h5, split: {column: subject, train: [1], test: [2]}}"
    )
    assert main([str(own / "mine.h5"), "--benchmark", str(own / "mine.yaml")]) == 1
    assert "benchmark mine, test: 0 clips\n" in capsys.readouterr().out


def test_a_reader_that_has_enough_is_no_error(own):
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "tools/check_data.py", str(own / "mine.h5")]
    done = subprocess.run(words, cwd=REPOSITORY, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141


def test_data_without_checksums_cannot_be_verified(own, capsys):
    clips = own / "clips"
    clips.mkdir()
    np.save(clips / "a.npy", np.ones((3, 25, 3), np.float32))
    (clips / "clips.csv").write_text("name,label,side\na,wave,train\n")
    words = [str(clips), "--benchmark", str(own / "mine.yaml")]
    assert main(words) == 1
    assert "clips: 1 of 1 classes" in capsys.readouterr().out
    assert main([*words, "--verify"]) == 2
    error = capsys.readouterr().err
    assert "no checksums to verify in folder of arrays (.npy)" in error
    assert error.count("\n") == 1
    assert main([str(own / "mine.h5"), "--benchmark", str(own / "mine.yaml"), "--verify"]) == 0


def test_what_the_system_refuses_is_2_and_one_line(own, capsys, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr("tools.check_data.check_data", refuse)
    assert main([str(own / "mine.h5")]) == 2
    assert capsys.readouterr().err == "tools/check_data.py: somewhere: Permission denied\n"


def test_unreadable_is_2_and_one_line(own, capsys):
    (own / "mine.h5").write_bytes(b"")
    for words in ([str(own / "mine.h5")], [str(own / "absent.h5")], [str(own), "--benchmark", "ntu61"]):
        assert main(words) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
