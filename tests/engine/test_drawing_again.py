"""tools/figures.py: the figures of a finished run from its folder alone."""

from __future__ import annotations

import numpy as np
import pytest

from engine import figures as drawing
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
