"""What a run leaves for its reader, also where nothing can be drawn."""

from __future__ import annotations

import csv
import json

import pytest

import engine.report
import engine.run
from engine import figures as drawing
from engine.experiment import Experiment
from tests.engine.child import start


def test_features_without_spread_have_no_embedding(call, run_folder, tmp_path):
    """Motion of clips of one frame is zero: t-SNE on equal points ended the process with a segmentation fault."""
    words = ("--data.stream", "joint_motion", "--data.window", "1", "--name", "small", "--log.tsne_clips", "40")
    code, printed = start(
        ["--config", str(call.config), *words, "--csre.enabled", "false", "--optim.epochs", "1"], tmp_path / "out.txt"
    ).wait()
    assert code == 0, printed
    assert "it needs at least 4 whose features differ" in printed
    assert (run_folder / "results.json").exists()
    assert not (run_folder / "tsne.npz").exists()


@pytest.mark.parametrize("part", ["draw_outcome", "write_page"])
def test_results_are_written_when_all_else_of_the_report_is(call, run_folder, monkeypatch, coarse_figures, part):
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    words = ("--log.figures", "true", "--optim.epochs", "1")
    with monkeypatch.context() as context:
        context.setattr(engine.report, part, broken)
        failed = call(*words)
    assert failed.code == 2
    assert "last epoch" in failed.out  # the table
    assert not (run_folder / "results.json").exists()
    assert call(*words).code == 0
    assert json.loads((run_folder / "results.json").read_text())["last"]["epoch"] == 1
    assert (run_folder / "report.html").exists()


def test_class_names_may_hold_whatever_text_may(call, run_folder, coarse_figures, monkeypatch):
    names = ['say "hi"', "a, b", *"cdefghij"]

    def with_names(run: Experiment, *rest: object) -> None:
        run.test_clips.class_names = names
        engine.report.report(run, *rest)

    monkeypatch.setattr(engine.run, "report", with_names)
    assert call("--optim.epochs", "1").code == 0
    with (run_folder / "confusion_last.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[1:] == [row[0] for row in rows] == names
    assert "say &quot;hi&quot;" in (run_folder / "report.html").read_text()


def test_an_embedding_of_other_weights_does_not_stay(call, run_folder):
    call("--optim.epochs", "1")
    left = [run_folder / "tsne.npz", run_folder / "figures/tsne.png", run_folder / "figures/tsne.pdf"]
    for path in left:
        path.touch()
    assert call("--optim.epochs", "1").code == 0
    assert not any(path.exists() for path in left)


def test_figures_name_the_weights_that_they_show(call, monkeypatch, coarse_figures):
    titles = {}
    monkeypatch.setattr(engine.report, "draw_tsne", lambda *rest: titles.setdefault("tsne", rest[3]))
    monkeypatch.setattr(drawing, "draw_per_class", lambda _, __, title, path: titles.setdefault(path.stem, title))
    call("--log.figures", "true", "--log.tsne_clips", "20", "--optim.epochs", "2")
    assert titles["tsne"].endswith("last epoch 2")
    assert titles["per_class_last"].endswith("last epoch 2")
    assert "best epoch " in titles["per_class_best"]
    assert titles["tsne"].startswith("tests.engine.tiny:TinyEncoder + CSRE, joint, nw-ucla")
