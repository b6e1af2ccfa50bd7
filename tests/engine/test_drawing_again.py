"""tools/figures.py: the figures of a finished run from its folder alone."""

from __future__ import annotations

import numpy as np
import pytest

from engine import figures as drawing
from engine import report
from tools import figures


@pytest.fixture
def run(call, run_folder):
    assert call("--log.tsne_clips", "20", "--optim.epochs", "1").code == 0
    return run_folder


def test_draws_what_the_run_itself_would_have_drawn(run, monkeypatch, coarse_figures):
    tsne = []
    monkeypatch.setattr(figures, "draw_tsne", lambda *arguments: tsne.append(arguments))
    assert not list((run / "figures").glob("*.png"))
    assert figures.main([str(run), "--classes", "THROW", "carry"]) == 0
    drawn = {path.name for path in (run / "figures").iterdir()}
    kinds = ("curves", "confusion_best", "confusion_last", "per_class_best", "per_class_last")
    assert drawn == {f"{kind}{suffix}" for kind in kinds for suffix in (".png", ".pdf")}
    ((points, labels, names, title, _, chosen),) = tsne
    stored = np.load(run / "tsne.npz")
    assert np.array_equal(points, stored["points"])
    assert np.array_equal(labels, stored["labels"])
    assert [names[index] for index in chosen] == ["throw", "carry"]
    assert title.endswith("joint, nw-ucla, last epoch 1")
    assert "confusion best" in (run / "report.html").read_text()


def test_titles_are_those_of_the_run_itself(call, run_folder, monkeypatch):
    titles = []

    def keep(name, place):
        return lambda *given: titles.append((name, given[place]))

    for name, place in {"draw_confusion": 2, "draw_per_class": 2, "draw_curves": 1}.items():
        monkeypatch.setattr(drawing, name, keep(name, place))
    for module in (report, figures):
        monkeypatch.setattr(module, "draw_tsne", keep("draw_tsne", 3))
    monkeypatch.setattr(report, "add_to_tensorboard", lambda *given, **options: None)
    words = ["--log.figures", "true", "--log.tsne_clips", "20", "--optim.epochs", "1"]
    of_test = ("--phase", "test", "--weights", str(run_folder / "checkpoints/last.pt"))
    for folder, more, kinds, ends in (
        (run_folder, (), ["draw_confusion"] * 2 + ["draw_curves"] + ["draw_per_class"] * 2, "best epoch 1"),
        (run_folder / "test", of_test, ["draw_confusion", "draw_per_class"], "given weights of epoch 1"),
    ):
        assert call(*words, *more).code == 0
        of_run, titles[:] = sorted(titles), []
        assert figures.main([str(folder)]) == 0
        again, titles[:] = sorted(titles), []
        assert again == of_run
        assert [name for name, _ in again] == [*kinds, "draw_tsne"]
        assert ("draw_per_class", f"tests.engine.tiny:TinyEncoder + CSRE, joint, nw-ucla, {ends}") in again


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--classes", "thro"], "did you mean 'throw'"), (["--classes", *["throw"] * (drawing.FEW + 1)], "at most 20")],
)
def test_classes_that_cannot_be_shown_are_refused(run, words, said, capsys):
    assert figures.main([str(run), *words]) == 2
    assert said in capsys.readouterr().err


def test_an_unfinished_run_is_refused(tmp_path, capsys):
    assert figures.main([str(tmp_path)]) == 2
    assert "no results.json" in capsys.readouterr().err


def test_damaged_results_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "results.json").write_text("{")
    assert figures.main([str(tmp_path)]) == 2
    refusal = capsys.readouterr().err
    assert "results.json: not JSON" in refusal
    assert refusal.count("\n") == 1
