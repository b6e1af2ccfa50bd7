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

from engine.config import CONFIG_FILE, resolve
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


def test_lists_can_be_values(tmp_path):
    cells = cells_of(grid(tmp_path, set={"csre.branches": [["spatial"], ["spatial", "temporal"]]}))
    assert names(cells) == ["ctrgcn_csre_joint_branchesspatial", "ctrgcn_csre_joint_branchesspatial+temporal"]
    assert [cell.config.csre.branches for cell in cells] == [["spatial"], ["spatial", "temporal"]]


def test_the_command_line_adds_to_a_file(tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(f"config: {CONFIG}\nset:\nwith: {{work_dir: {tmp_path}}}\n")
    words = ["--set", "csre.temperature=0.5", "--with", "optim.epochs=3", "--seeds", "1,2", "--dry-run"]
    assert main([str(tmp_path / "grid.yaml"), *words]) == 0
    assert "temperature0.5_seed2: 0 of 3 epochs done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": []}, "no configuration given"),
        ({"seeds": [0, 1], "name": "same"}, "two cells would share .*/demo/same; put what differs"),
    ],
)
def test_grids_that_cannot_be_run(tmp_path, changes, message):
    with pytest.raises(SweepError, match=message):
        cells_of(grid(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("sed: [1]", [], "GRID: unknown key 'sed' (did you mean 'seeds'"),
        ("1: [1]", [], "GRID: unknown key 1"),
        ("set: [csre.temperature]", [], "GRID: set: must be a mapping of settings"),
        ("set: [csre.temperature]", ["--set", "seed=1"], "GRID: set: must be a mapping of settings"),
        ("set: {1: [2]}", [], "GRID: set: must be a mapping of settings"),
        ("with: [optim.amp]", [], "GRID: with: must be a mapping of settings"),
        ("set: {csre.temperature: []}", [], "GRID: csre.temperature: no values"),
        ("set: {csre.temperature: }", [], "GRID: csre.temperature: no values"),
        ("seeds: {a: 1}", [], "GRID: seed: must be an integer"),
        ("seeds: [0, 0]", [], "GRID: name: two cells would share"),
        ("with: {optim.epochs: 1}", ["--seeds", "x"], "GRID and command line: seed: must be an integer"),
        (None, ["--seeds", "x"], "command line: seed: must be an integer"),
        (None, ["--seeds", ""], "command line: seed: no values"),
        (None, ["--set", "csre.temperature="], "command line: csre.temperature: no values"),
        (None, ["--set", "=3"], "--set =3: write KEY=VALUE"),
        (None, ["--with", "=3"], "--with =3: write KEY=VALUE"),
        (None, ["--jobs", "1", "--gpus", "0,1"], "--jobs: cannot be given with --gpus"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_its_place(tmp_path, capsys, text, words, said):
    file = tmp_path / "grid.yaml"
    if text is not None:
        file.write_text(f"config: {CONFIG}\n{text}\n")
        words = [str(file), *words]
    assert main([*words, *([] if text else ["--config", CONFIG]), "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"tools/sweep.py: {said.replace('GRID', str(file))}"), captured.err
    assert captured.err.count("\n") == 1


def finished_run(folder, *words, epochs, seconds):
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(resolve(["--config", CONFIG, *words, "--optim.epochs", str(epochs)]).as_yaml())
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
    finished_run(tmp_path / "demo/ctrgcn_csre_joint_seed0", "--seed", "0", epochs=10, seconds=600)
    assert main(words) == 0
    out = capsys.readouterr().out
    assert re.search("joint_seed0: finished, 0 min left", out)
    assert re.search("joint_seed1: 0 of 10 epochs done, 10 min left: python main.py --config", out)
    assert "1 of 2 cells finished, 10 min left" in out


STAND_IN = f"""
import pathlib, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from engine.config import resolve, run_path
resolved = resolve(sys.argv[1:])
run = resolved.config
folder = run_path(run.work_dir, "demo", run.name)
folder.mkdir(parents=True, exist_ok=True)
if str(run.seed) in pathlib.Path(run.work_dir, "broken").read_text():
    (folder / "results.json").touch()
    print("epoch 1")
    sys.exit("main.py: no luck")
(folder / "config.yaml").write_text(resolved.as_yaml())
(folder / "results.json").write_text("{{}}")
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Call sweep.py for the seeds 0 and 1, with a main.py that fails for the seeds that the file `broken` names."""
    (tmp_path / "main.py").write_text(STAND_IN)
    (tmp_path / "broken").touch()
    monkeypatch.setattr("tools.sweep.MAIN", tmp_path / "main.py")
    words = ["--config", CONFIG, "--with", f"work_dir={tmp_path}", "--seeds", "0,1", "--name", "s{seed}", "--jobs", "2"]
    return lambda *more: main([*words, *more])


def test_finished_cells_are_skipped_and_failed_ones_named_at_the_end(tmp_path, sweep, capsys):
    (tmp_path / "broken").write_text("0")
    assert sweep() == 1
    captured = capsys.readouterr()
    assert re.search("FAILED .*/s0; ", captured.out)
    assert re.search("finished .*/s1; 1 of 2", captured.out)
    assert re.fullmatch("tools/sweep.py: 1 of 2 cells failed\n  .*/s0: main.py: no luck\n", captured.err)

    (tmp_path / "demo/s0/results.json").unlink()
    (tmp_path / "broken").write_text("1")  # had it not finished before, it would fail now
    assert sweep() == 0
    assert "s1" not in capsys.readouterr().out
    assert (tmp_path / "demo/s0/results.json").exists()

    (tmp_path / "broken").write_text("0 1")
    assert sweep() == 0
    assert capsys.readouterr().out == "all 2 cells are finished already\n"


def test_more_epochs_continue_finished_cells(sweep, capsys):
    assert sweep("--with", "optim.epochs=1") == 0
    assert sweep("--with", "optim.epochs=2", "--dry-run") == 0
    assert "0 of 2 cells finished" in capsys.readouterr().out
    assert sweep("--with", "optim.epochs=2") == 0
    assert capsys.readouterr().out.count("started") == 2
    assert sweep("--with", "optim.epochs=2") == 0
    assert "all 2 cells are finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        ("optim.lr=0.025", "optim.lr: 0.1 -> 0.025"),
        ("optim.epochs=1", "optim.epochs: 2 -> 1"),
        (f"weights={CONFIG}", f"weights: None -> {re.escape(CONFIG)}"),
    ],
)
def test_cells_that_were_trained_with_other_settings_are_refused(sweep, capsys, setting, difference):
    epochs = ("--with", "optim.epochs=2")
    assert sweep(*epochs) == 0
    assert sweep(*epochs, "--with", "device=cpu") == 0  # computes the same
    capsys.readouterr()
    assert sweep(*epochs, "--with", setting, "--dry-run") == 2
    captured = capsys.readouterr()
    assert re.fullmatch(rf"tools/sweep.py: .*/s0 was trained with other .*\({difference}\); .*--name\n", captured.err)
    assert captured.out == ""


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


def test_a_setting_that_is_given_as_an_option_is_told_its_place(capsys):
    assert main(["--data.path", "clips"]) == 2
    assert "unknown option --data.path, settings of runs go into --with KEY=VALUE" in capsys.readouterr().err
