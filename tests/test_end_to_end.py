"""From raw clips to scores, by the commands that a user types: generate, prepare, check, train, export, fuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

import ensemble
import main
from feeders.benchmarks import get_benchmark
from feeders.ntu.names import get_dataset
from fusion.scores import load_scores
from tools.ntu_clips import generate_tree

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL = ("--model.options.base_channels", "8", "--data.window", "16", "--optim.batch_size", "16", "--device", "cpu")


def command(*words: object) -> tuple[int, str]:
    """Exit code and output of a command of this repository."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_raw_clips_become_scores(tmp_path, capsys):
    names = generate_tree(tmp_path / "raw", get_dataset("ntu60"), clips=60, seed=2)
    store = tmp_path / "ntu60.h5"
    code, said = command("data/prepare_ntu.py", "--raw", tmp_path / "raw", "--dataset", "ntu60", "--output", store)
    assert code == 3, said  # written, but far from all of the 56,578 clips
    assert "60 of 56,578" in said

    code, said = command("tools/check_data.py", store, "--benchmark", "ntu60-xsub")
    assert code == 1, said  # good clips, but not the whole data set
    assert "bad clips: 0" in said
    trained = get_benchmark("ntu60-xsub").split.train
    train, test = ([str(n) for n in sorted(names) if (n.subject in trained) == side] for side in (True, False))
    assert f"ntu60-xsub, train: {len(train)} clips" in said
    assert f"ntu60-xsub, test: {len(test)} clips" in said

    for stream in ("joint", "bone"):
        config = REPOSITORY / "config/ntu60-xsub/ctrgcn_csre_joint.yaml"
        words = (
            "--data.stream",
            stream,
            "--data.path",
            str(store),
            "--work_dir",
            str(tmp_path / "runs"),
            "--optim.epochs",
            "1",
        )
        assert (
            main.main(["--config", str(config), *words, *SMALL, "--log.tsne_clips", "0", "--log.figures", "false"]) == 0
        )
        scores = load_scores(tmp_path / f"runs/ntu60-xsub/ctrgcn_csre_{stream}/scores_last.npz")
        assert list(scores.names) == test
        assert scores.labels.tolist() == [int(name[-3:]) - 1 for name in test]
        assert scores.logits.shape == (len(test), 60)
        assert np.isfinite(scores.logits).all()
    assert "40091 expected" in capsys.readouterr().out.replace(",", "")  # training says what is missing

    runs = [str(tmp_path / f"runs/ntu60-xsub/ctrgcn_csre_{stream}") for stream in ("joint", "bone")]
    assert ensemble.main(runs) == 0
    assert f"{len(test)} clips, 60 classes" in capsys.readouterr().out

    arrays = tmp_path / "NTU60_CS.npz"
    assert command("data/export_npz.py", store, "--protocol", "xsub", "--output", arrays)[0] == 0
    with np.load(arrays) as exported:
        assert exported["x_train"].shape == (len(train), 300, 150)
        assert exported["y_test"].shape == (len(test), 60)
