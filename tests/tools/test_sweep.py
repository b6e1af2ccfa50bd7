"""Grids of runs: which cells they hold, what is skipped, resumed and told of failures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.sweep import SweepError, cells_of, main

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = str(REPOSITORY / "config/demo/ctrgcn_csre_joint.yaml")


def grid(tmp_path, **changes: object):
    return {"config": CONFIG, "with": {"work_dir": str(tmp_path)}, **changes}


def names(cells):
    return [cell.folder.name for cell in cells]


def test_every_combination_is_a_cell_with_seeds_innermost(tmp_path):
    cells = cells_of(grid(tmp_path, set={"csre.temperature": [0.5, 1.0]}, seeds=[0, 1]))
    assert names(cells) == [
        "ctrgcn_csre_joint_temperature0.5_seed0",
        "ctrgcn_csre_joint_temperature0.5_seed1",
        "ctrgcn_csre_joint_temperature1.0_seed0",
        "ctrgcn_csre_joint_temperature1.0_seed1",
    ]
    assert cells[0].folder.parent == tmp_path / "demo"


def test_names_carry_settings(tmp_path):
    cells = cells_of(grid(tmp_path, seeds=[3], name="{name}_s{seed}_t{csre.temperature}"))
    assert names(cells) == ["ctrgcn_csre_joint_s3_t0.8"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": [1]}, "unknown key 'sed' .did you mean 'seeds'"),
        ({"config": []}, "no configuration given"),
        ({"seeds": [0, 1], "name": "same"}, "two cells would share .*/demo/same; put what differs"),
    ],
)
def test_grids_that_cannot_be_run(tmp_path, changes, message):
    with pytest.raises(SweepError, match=message):
        cells_of(grid(tmp_path, **changes))


def finished_run(folder, epochs, seconds):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("{}")
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"kind": "train", "epoch": e}) + "\n" for e in range(epochs))
    )
    (folder / "log.txt").write_text(
        f"2026-01-01 00:00:00 hcn: 3 test clips, run folder x\n"
        f"2026-01-01 00:{seconds // 60:02}:{seconds % 60:02} done\n"
    )


def test_dry_run_expects_what_finished_cells_took(tmp_path, capsys):
    words = [
        "--config",
        CONFIG,
        "--seeds",
        "0,1",
        "--with",
        f"work_dir={tmp_path}",
        "--with",
        "optim.epochs=10",
        "--dry-run",
    ]
    assert main(words) == 0
    assert "0 of 2 cells finished, unknown time left" in capsys.readouterr().out
    finished_run(tmp_path / "demo/ctrgcn_csre_joint_seed0", epochs=10, seconds=600)
    assert main(words) == 0
    out = capsys.readouterr().out
    assert re.search("joint_seed0: finished, 0 min left", out)
    assert re.search("joint_seed1: 0 of 10 epochs done, 10 min left: python main.py --config", out)
    assert "1 of 2 cells finished, 10 min left" in out


STAND_IN = """
import pathlib, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(words["--work_dir"]) / "demo" / words["--name"].replace("{seed}", words["--seed"])
if words["--seed"] in pathlib.Path(words["--work_dir"], "broken").read_text():
    print("epoch 1")
    sys.exit("main.py: no luck")
folder.mkdir()
(folder / "results.json").write_text("{}")
"""


def test_finished_cells_are_skipped_and_failed_ones_named_at_the_end(tmp_path, monkeypatch, capsys):
    (tmp_path / "main.py").write_text(STAND_IN)
    (tmp_path / "broken").write_text("0")
    monkeypatch.setattr("tools.sweep.MAIN", tmp_path / "main.py")
    words = ["--config", CONFIG, "--with", f"work_dir={tmp_path}", "--seeds", "0,1", "--name", "s{seed}", "--jobs", "2"]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert re.search("FAILED .*/s0; ", captured.out)
    assert re.search("finished .*/s1; 1 of 2", captured.out)
    assert re.fullmatch("tools/sweep.py: 1 of 2 cells failed\n  .*/s0: main.py: no luck\n", captured.err)

    (tmp_path / "broken").write_text("1")  # had it not finished before, it would fail now
    assert main(words) == 0
    assert "s1" not in capsys.readouterr().out
    assert (tmp_path / "demo/s0/results.json").exists()


STOPPABLE = """
import pathlib, signal, sys, time
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
def save(*_):
    pathlib.Path(words["--work_dir"], "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path(words["--work_dir"], "started").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_sweep_that_is_stopped_lets_its_runs_save(tmp_path, number, code):
    (tmp_path / "main.py").write_text(STOPPABLE)
    program = (
        f"import pathlib, sys, tools.sweep as sweep; sweep.MAIN = pathlib.Path({str(tmp_path / 'main.py')!r})\n"
        f"sys.exit(sweep.main(['--config', {CONFIG!r}, '--with', 'work_dir={tmp_path}']))"
    )
    sweep = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "started").exists() and sweep.poll() is None:
        time.sleep(0.02)
    os.kill(sweep.pid, number)
    _, err = sweep.communicate()
    assert sweep.returncode == code
    assert (tmp_path / "saved").exists()
    assert "Traceback" not in err
    assert ("the same command resumes every cell" in err) == (number == signal.SIGINT)
