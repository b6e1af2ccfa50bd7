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
    titles = {report: [], figures: []}
    place_of_title = {"draw_confusion": 2, "draw_per_class": 2, "draw_curves": 1, "draw_tsne": 3}
    for module, found in titles.items():
        for name, place in place_of_title.items():
            monkeypatch.setattr(module, name, lambda *given, found=found, place=place: found.append(given[place]))
    monkeypatch.setattr(report, "add_to_tensorboard", lambda *given, **options: None)
    words = ["--log.figures", "true", "--log.tsne_clips", "20", "--optim.epochs", "1"]
    assert call(*words).code == 0
    assert figures.main([str(run_folder)]) == 0
    assert call(*words, "--phase", "test", "--weights", str(run_folder / "checkpoints/last.pt")).code == 0
    assert figures.main([str(run_folder / "test")]) == 0
    assert sorted(titles[figures]) == sorted(titles[report])
    assert "tests.engine.tiny:TinyEncoder + CSRE, joint, nw-ucla, best epoch 1" in titles[figures]
    assert "tests.engine.tiny:TinyEncoder + CSRE, joint, nw-ucla, given weights of epoch 1" in titles[figures]


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
