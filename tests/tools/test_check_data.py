"""The command that checks a data set: its report and its exit code."""

from __future__ import annotations

import numpy as np
import pytest

from feeders import PackedStore
from tools.check_data import main


@pytest.fixture
def own(tmp_path):
    """A benchmark of one's own with one clip per side."""
    clips = [np.random.default_rng(0).standard_normal((3, 1, 25, 3)).astype(np.float32)] * 2
    store = PackedStore.from_clips(clips, [0, 0], ["a", "b"], ["wave"], "ntu", {"side": [0, 1]})
    store.save(tmp_path / "mine.h5")
    (tmp_path / "mine.yaml").write_text("{skeleton: ntu, classes: [wave], path: mine.h5}")
    return tmp_path


def test_whole_and_good_is_0(own, capsys):
    assert main([str(own / "mine.h5"), "--benchmark", str(own / "mine.yaml")]) == 0
    output = capsys.readouterr().out
    assert output.startswith("format: packed store\nskeleton: ntu, 25 joints\nclips: 2 of 1 classes, 6 frames\n")
    assert "benchmark mine, train: 1 clips\n" in output
    assert output.endswith("missing clips that are known by name: 0\nbad clips: 0\nwhole and good\n")


def test_not_whole_is_1(own, capsys):
    assert main([str(own / "mine.h5")]) == 1
    assert "benchmark: none fits" in capsys.readouterr().out


def test_unreadable_is_2_and_one_line(own, capsys):
    (own / "mine.h5").write_bytes(b"")
    for words in ([str(own / "mine.h5")], [str(own / "absent.h5")], [str(own), "--benchmark", "ntu61"]):
        assert main(words) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
